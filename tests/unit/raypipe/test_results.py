"""Tables of answers turned into what others work with."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import AtlasError, RaypipeError, UsageError
from raypipe.results import Result, stacked

TABLE = pa.table(
    {
        "id": ["a", "b", "c"],
        "seq_id": pa.array([5, 3, 5]),
        "score": pa.array([1, 0.5, None], pa.float32()),
        "family": pa.array(["tRNA", None, "tRNA"]),
        "taxid": pa.array([2**60 + 1, None, 1]),
        "known": pa.array([True, None, False]),
        "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
        "seen": pa.array([datetime.date(2026, 1, 2), None, None]),
    }
)


def vectors_of(table: pa.Table) -> np.ndarray:
    """(N, 2): each row's seq_id twice."""
    return np.repeat(table["seq_id"].to_numpy().astype(np.float32)[:, None], 2, axis=1)


RESULT = Result(TABLE, {"version": "7"}, vectors=vectors_of)


def test_tables_and_lists() -> None:
    assert RESULT.to_arrow() is TABLE
    assert list(RESULT) == RESULT.to_pylist() == TABLE.to_pylist()
    assert len(RESULT) == 3
    assert RESULT.to_pandas()["id"].tolist() == ["a", "b", "c"]
    assert RESULT.to_polars().schema.names() == TABLE.column_names
    assert RESULT.to_polars()["taxid"].to_list() == [2**60 + 1, None, 1]
    assert (RESULT.how, RESULT.truncated) == ({"version": "7"}, False)
    assert Result(TABLE, truncated=True).truncated
    assert repr(RESULT).startswith("Result(3 rows: id, seq_id")


def test_anndata_keeps_what_is_missing_and_whole_numbers(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    RESULT.write(tmp_path / "x.h5ad")
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5ad"]
    found = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert found.X.dtype == np.float32
    assert found.X.tolist() == [[5, 5], [3, 3], [5, 5]]
    assert list(found.obs.columns) == TABLE.column_names
    assert found.obs["taxid"].tolist()[0] == 2**60 + 1
    assert found.obs["family"].isna().tolist() == [False, True, False]
    assert found.obs["tags"].tolist()[:2] == ['["x"]', "[]"]
    assert found.obs["known"].isna().tolist() == [False, True, False]
    assert found.obs["seen"].tolist()[0] == "2026-01-02"
    assert json.loads(found.uns["how"]) == {"version": "7"}
    assert found.obs_names.tolist() == ["0", "1", "2"]


def test_files(tmp_path: Path) -> None:
    for suffix in ("tsv", "csv", "jsonl", "parquet"):
        RESULT.write(tmp_path / f"x.{suffix}")
    assert (tmp_path / "x.tsv").read_text().splitlines()[1].startswith("a\t5\t1.000000\ttRNA\t")
    assert (tmp_path / "x.csv").read_text().splitlines()[1].startswith("a,5,1.000000,tRNA,")
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[1])["family"] is None
    assert pq.read_table(tmp_path / "x.parquet").equals(TABLE)
    for name in ("x", "x.xlsx", "x.npy"):
        with pytest.raises(UsageError, match=r"its name shall end in .tsv, .csv, .jsonl, .parquet, .h5ad"):
            RESULT.write(tmp_path / name)
    with pytest.raises(RaypipeError, match="cannot be written"):
        RESULT.write(tmp_path / "nowhere" / "x.tsv")


@pytest.mark.parametrize(
    ("package", "call", "command"),
    [
        ("pandas", "to_pandas", "pip install pandas"),
        ("polars", "to_polars", "pip install polars"),
        ("anndata", "to_anndata", r"pip install 'raypipe\[anndata\]'"),
    ],
)
def test_what_is_not_installed(package: str, call: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RaypipeError, match=f"{package} is not installed; run: {command}"):
        getattr(RESULT, call)()


def test_rows_without_vectors() -> None:
    pytest.importorskip("anndata")
    with pytest.raises(UsageError, match="no hits of a search"):
        Result(TABLE).to_anndata()
    with pytest.raises(UsageError, match="the column seq_id or id is needed"):
        Result(TABLE.select(["score"]), vectors=vectors_of).to_anndata()


def test_parts_of_an_answer_that_annotations_were_replaced_between() -> None:
    one = pa.table({"id": ["a"], "family": ["tRNA"]})
    assert stacked([one, pa.table({"id": ["b"]})]).to_pylist()[1] == {"id": "b", "family": None}
    with pytest.raises(AtlasError, match="replaced meanwhile; ask again") as caught:
        stacked([one, pa.table({"id": ["b"], "family": [5]})])
    assert caught.value.code == "stale"
