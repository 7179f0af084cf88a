"""Tables that are looked up by row number, and stored vectors that are read where they lie."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.errors import StoreError
from index.mapped import can_map, open_mapped, places, take, write_mapped
from index.vector_pages import UnknownLayoutError, take_rows

COLUMNS = {
    "text": pa.array(["x", None, "", "zzé", "long " * 50] * 7),
    "small": pa.array([1, None, 3, 4, -5] * 7, pa.int16()),
    "truth": pa.array([True, None, False, True, False] * 7),
    "number": pa.array([None, 1.5, 2, 3, float("nan")] * 7),
    "day": pa.array([datetime.date(2026, 1, day) for day in (1, 2, 3, 4, 5)] * 7),
    "sum": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.25"), None, decimal.Decimal(0)] * 7),
    "nothing": pa.nulls(35, pa.string()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_written_is_what_is_read(tmp_path, name):
    table = pa.table({name: COLUMNS[name]})
    batches = [batch.slice(1) for batch in table.to_batches(9)]
    assert can_map(table.schema[0].type)
    write_mapped(tmp_path / "t.arrow", table.schema, batches)
    mapped = open_mapped(tmp_path / "t.arrow")
    mapped.validate(full=True)
    assert str(mapped.column(0).to_pylist()) == str(pa.Table.from_batches(batches)[0].to_pylist())
    assert [file.name for file in tmp_path.iterdir()] == ["t.arrow"]


def test_rows_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr("index.mapped.MOST_SHORT", 100)  # so that offsets are of 64 bits
    table = pa.table({"text": COLUMNS["text"]})
    write_mapped(tmp_path / "t.arrow", table.schema, table.to_batches(4))
    column = open_mapped(tmp_path / "t.arrow").column(0)
    assert column.type == pa.large_string()
    taken = take(column, places(np.array([4, -1, 0, 4])))
    assert taken.type == pa.string()
    assert taken.to_pylist() == ["long " * 50, None, "x", "long " * 50]


def test_nothing_and_damage(tmp_path):
    schema = pa.schema([("text", pa.string()), ("number", pa.int64())])
    write_mapped(tmp_path / "t.arrow", schema, [])
    assert open_mapped(tmp_path / "t.arrow").num_rows == 0
    assert not can_map(pa.list_(pa.int64()))
    content = (tmp_path / "t.arrow").read_bytes()
    for damaged in (content[:50], b"", b"no Arrow at all, but long enough to be one"):
        (tmp_path / "t.arrow").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"t\.arrow: damaged"):
            open_mapped(tmp_path / "t.arrow")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_are_read_where_they_lie(tmp_path, dtype):
    vectors = np.random.default_rng(0).standard_normal((1000, 24)).astype(dtype)
    type_ = pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False), 24)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=type_)
    schema = pa.schema([("seq_id", pa.int64()), pa.field("embedding", type_, nullable=False)])
    table = pa.table([pa.array(np.arange(1000)), column], schema=schema)
    plain = {"use_dictionary": False, "row_group_size": 300}
    # Pages that end within a vector among them.
    for size in (100, 1000, 1 << 20):
        file = tmp_path / f"{size}.parquet"
        pq.write_table(table, file, compression="none", data_page_size=size, write_batch_size=7, **plain)
        rows = np.array([999, 0, 299, 300, 301, 5, 5])
        np.testing.assert_array_equal(take_rows(file, rows, 24), vectors[rows].astype(np.float32))
        with pytest.raises((UnknownLayoutError, IndexError)):
            take_rows(file, np.array([1000]), 24)
    for name, options in {
        "zstd": {"compression": "zstd"},
        "v2": {"compression": "none", "data_page_version": "2.0"},
    }.items():
        pq.write_table(table, tmp_path / name, **options, **plain)
        with pytest.raises(UnknownLayoutError):
            take_rows(tmp_path / name, np.array([1]), 24)
