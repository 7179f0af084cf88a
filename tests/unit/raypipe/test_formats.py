"""Tables written and read back."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import RaypipeError
from raypipe.formats import write_table

TABLE = pa.table(
    {
        "query": ["q1", "q\t2\r\n", None],
        "score": pa.array([0.12345678, 1, None], pa.float32()),
        "small": pa.array([0.1, 1e-20, None], pa.float32()),
        "n": pa.array([1, -2, None], pa.int64()),
        "flag": [True, False, None],
        "tags": [["a", None], [], None],
        "at": pa.array([datetime.date(2026, 1, 2), None, None]),
    }
)


def text(table, format, **options):
    stream = io.StringIO()
    write_table(table, stream, format, **options)
    return stream.getvalue()


def test_tsv():
    assert text(TABLE, "tsv").splitlines() == [
        "query\tscore\tsmall\tn\tflag\ttags\tat",
        'q1\t0.123457\t0.1\t1\ttrue\t["a", null]\t2026-01-02',
        "q 2  \t1.000000\t1e-20\t-2\tfalse\t[]\t",
        "\t\t\t\t\t\t",
    ]
    assert text(TABLE, "tsv", header=False).startswith("q1\t")


def test_csv_reads_back():
    rows = list(csv.DictReader(io.StringIO(text(TABLE, "csv"), newline="")))
    assert rows[1]["query"] == "q\t2\r\n"
    assert rows[0]["tags"] == '["a", null]'
    assert rows[2]["n"] == ""


def test_jsonl():
    rows = [json.loads(line) for line in text(TABLE, "jsonl").splitlines()]
    assert rows[0] == {
        "query": "q1",
        "score": 0.123457,
        "small": 0.1,
        "n": 1,
        "flag": True,
        "tags": ["a", None],
        "at": "2026-01-02",
    }
    assert set(rows[2].values()) == {None}
    assert text(pa.table({"x": [math.nan, math.inf]}), "jsonl") == '{"x": null}\n{"x": null}\n'


def test_json_keeps_structs_maps_and_bytes():
    table = pa.table(
        {
            "s": pa.array([{"a": 1, "b": None}], pa.struct([("a", pa.int8()), ("b", pa.string())])),
            "m": pa.array([[("k", 1.5)]], pa.map_(pa.string(), pa.float32())),
            "b": pa.array([b"\x00\xff"]),
            "v": pa.array([[0.1, 2]], pa.list_(pa.float32(), 2)),
        }
    )
    wanted = {"s": {"a": 1, "b": None}, "m": {"k": 1.5}, "b": "00ff", "v": [0.1, 2.0]}
    assert json.loads(text(table, "jsonl")) == wanted
    assert text(table, "tsv", header=False) == '{"a": 1, "b": null}\t{"k": 1.5}\t00ff\t[0.1, 2.0]\n'


def test_parquet(tmp_path):
    write_table(TABLE, tmp_path / "x.parquet", "parquet")
    assert pq.read_table(tmp_path / "x.parquet").equals(TABLE)
    stream = io.BytesIO()
    write_table(TABLE, stream, "parquet")
    assert pq.read_table(io.BytesIO(stream.getvalue())).equals(TABLE)
    with pytest.raises(RaypipeError, match="cannot be written to a text stream"):
        write_table(TABLE, io.StringIO(), "parquet")


def test_parquet_to_a_terminal_is_refused():
    _, terminal = os.openpty()
    with os.fdopen(terminal, "wb") as stream, pytest.raises(RaypipeError, match="not to the terminal"):
        write_table(TABLE, stream, "parquet")


def test_standard_output(capfdbinary):
    write_table(TABLE, None, "tsv")
    assert capfdbinary.readouterr().out.decode() == text(TABLE, "tsv")


def test_a_pipe_gets_every_format(tmp_path):
    for format in ("tsv", "parquet"):
        fifo = tmp_path / f"fifo-{format}"
        os.mkfifo(fifo)
        read: list[bytes] = []
        reader = threading.Thread(target=lambda fifo=fifo, read=read: read.append(fifo.read_bytes()))
        reader.start()
        write_table(TABLE, fifo, format)
        reader.join(10)
        assert len(read[0]) > 50
        assert fifo.is_fifo()


@pytest.mark.parametrize("format", ["tsv", "csv", "jsonl", "parquet"])
def test_files_are_whole_or_absent(tmp_path, format):
    path = tmp_path / "out"
    path.write_text("before")
    write_table(TABLE, path, format)
    assert path.read_bytes() != b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    with pytest.raises(RaypipeError, match=r"folder.*cannot be written"):
        write_table(TABLE, tmp_path / "folder" / "out", format)
    (tmp_path / "taken").mkdir()
    with pytest.raises(RaypipeError, match=r"taken.*cannot be written"):
        write_table(TABLE, tmp_path / "taken", format)


def test_a_full_device():
    with pytest.raises(RaypipeError, match=r"/dev/full: cannot be written \(No space left"):
        write_table(TABLE, Path("/dev/full"), "tsv")


def test_a_full_standard_output(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(RaypipeError, match=r"standard output: cannot be written \(No space left"):
            write_table(TABLE, None, "tsv")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link.tsv").symlink_to(tmp_path / "there.tsv")
    for _ in range(2):
        write_table(TABLE, tmp_path / "link.tsv", "tsv")
        assert (tmp_path / "link.tsv").is_symlink()
        assert (tmp_path / "there.tsv").read_text().startswith(TABLE.column_names[0])


def test_one_empty_column_is_a_line_of_csv():
    table = pa.table({"x": ["", None, "a"]})
    assert list(csv.reader(io.StringIO(text(table, "csv"), newline=""))) == [["x"], [""], [""], ["a"]]


def test_unknown_format():
    with pytest.raises(RaypipeError, match="no format 'xlsx'; there are: tsv, csv, jsonl, parquet"):
        write_table(TABLE, None, "xlsx")


CELLS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS, st.floats(width=32), st.integers(-(2**63), 2**63 - 1)), max_size=8))
def test_every_value_reads_back(rows):
    names = ["a", "b", "x", "n"]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    types = [pa.string(), pa.string(), pa.float32(), pa.int64()]
    table = pa.table({name: pa.array(column, type_) for name, column, type_ in zip(names, columns, types, strict=True)})

    lines = text(table, "tsv").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(rows) + 1
    for line, (a, b, x, n) in zip(lines[1:], rows, strict=True):
        fields = line.split("\t")
        assert fields[:2] == [value.translate({9: 32, 10: 32, 13: 32}) for value in (a, b)]
        assert np.float32(fields[2]) == np.float32(x) or math.isnan(x)
        assert int(fields[3]) == n

    objects = [json.loads(line) for line in text(table, "jsonl").split("\n")[:-1]]
    assert [(row["a"], row["b"], row["n"]) for row in objects] == [(a, b, n) for a, b, _, n in rows]
    for row, (_, _, x, _) in zip(objects, rows, strict=True):
        assert row["x"] is None if not math.isfinite(x) else np.float32(row["x"]) == np.float32(x)

    parsed = list(csv.reader(io.StringIO(text(table, "csv"), newline="")))
    assert [tuple(row[:2]) for row in parsed[1:]] == [(a, b) for a, b, _, _ in rows]
