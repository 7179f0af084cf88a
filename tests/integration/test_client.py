"""`raypipe.connect`: what Python code gets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import raypipe
from index.errors import StoreError
from raypipe.atlas import Atlas
from raypipe.errors import UsageError
from tests.integration.conftest import FASTA, Cli

S1 = "GGGCCCAAAUUU"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished atlas, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "atlas"))


@pytest.fixture(scope="module")
def atlas(finished: Path) -> Atlas:
    """The finished atlas, opened once."""
    return raypipe.connect(finished)


def test_search_by_sequence_id_and_vector_agree(atlas: Atlas) -> None:
    by_sequence = atlas.search(S1, k=3).to_pylist()
    by_id = atlas.search(ids=["s1"], k=3).to_pylist()
    by_vector = atlas.search(vectors=atlas.embed(S1), k=3).to_pylist()
    assert [row["query"] for row in by_sequence + by_id + by_vector] == 3 * ["query_1"] + 3 * ["s1"] + 3 * ["query_1"]
    assert [row["rank"] for row in by_sequence] == [1, 2, 3]
    assert by_sequence[0]["id"] == "s1"
    assert by_sequence[0]["score"] == pytest.approx(1, abs=1e-5)
    for rows in (by_id, by_vector):
        assert [row["id"] for row in rows] == [row["id"] for row in by_sequence]
        assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in by_sequence], abs=1e-3)


def test_scores_are_cosines_of_the_stored_vectors(atlas: Atlas) -> None:
    (query,) = atlas.embed(["ACGUUGCA"])
    rows = atlas.search("ACGUUGCA", k=6, columns=["seq_id", "score"]).to_pylist()
    stored = {row["seq_id"]: np.array(row["embedding"]) for row in atlas.sql("FROM embeddings").to_pylist()}
    assert len(rows) == len(stored) == 6
    for row in rows:
        vector = stored[row["seq_id"]]
        cosine = vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)
        # A query has the digits of what is stored, float16, before it is compared.
        assert row["score"] == pytest.approx(cosine, abs=1e-3)


def test_letters_do_not_matter(atlas: Atlas) -> None:
    assert np.array_equal(atlas.embed(["acguacgt"]), atlas.embed(["ACGTACGU"]))


def test_names_filters_and_columns(atlas: Atlas) -> None:
    result = atlas.search({"x": S1, "y": "ACGU"}, k=2, where="family = 'tRNA'", columns=["query", "id", "family"])
    assert result.to_arrow().column_names == ["query", "id", "family"]
    assert [row["query"] for row in result.to_pylist()] == ["x", "x", "y", "y"]
    assert {row["id"] for row in result.to_pylist()} == {"t1", "t2"}
    assert len(atlas.search(S1, k=100)) == 6
    assert len(atlas.search(S1, where="length > 1000000")) == 0


def test_a_hit_counts_the_records_that_share_its_sequence(atlas: Atlas) -> None:
    (row,) = atlas.search(S1, k=1, columns=["id", "n_records"]).to_pylist()
    assert row == {"id": "s1", "n_records": 2}


def test_results(atlas: Atlas) -> None:
    result = atlas.sql("SELECT 1 AS one, 'a' AS letter")
    assert isinstance(result.to_arrow(), pa.Table)
    assert result.to_pylist() == [{"one": 1, "letter": "a"}]
    assert repr(result) == "Result(1 rows: one, letter)"
    pandas = pytest.importorskip("pandas")
    assert isinstance(result.to_pandas(), pandas.DataFrame)
    assert atlas.sql("SELECT count(*) AS n FROM records WHERE id = $id", {"id": "t1"}).to_pylist() == [{"n": 2}]


def test_get_keeps_order_and_duplicates(atlas: Atlas) -> None:
    rows = atlas.get(["u1", "copy", "t1"]).to_pylist()
    assert [row["id"] for row in rows] == ["u1", "copy", "t1", "t1"]
    assert [row["sequence"] for row in rows][1] == S1
    assert rows[2]["description"] == "first tRNA"
    with pytest.raises(StoreError, match="no record called 'nobody'"):
        atlas.get(["u1", "nobody"])


def test_info(atlas: Atlas) -> None:
    about = atlas.info()
    assert (about["records"], about["rejected"], about["sequences"], about["longest"]) == (7, 0, 6, 49)
    assert [vectors["name"] for vectors in about["embeddings"]] == ["tiny"]
    assert about["index"]["rows"] == 6
    assert "families" in about["annotations"]


@pytest.mark.parametrize("damage", ["plan", "part"])
def test_info_goes_on_with_a_damaged_set(cli: Cli, copied: Path, damage: str) -> None:
    folder = copied / "embeddings" / "tiny"
    file = folder / "plan.parquet" if damage == "plan" else min(folder.glob("part-*.parquet"))
    whole = raypipe.connect(copied).info()
    file.write_bytes(file.read_bytes()[:50])
    about = raypipe.connect(copied).info()
    (vectors,) = about["embeddings"]
    if damage == "plan":
        assert vectors["embedded"] == whole["embeddings"][0]["embedded"] == 6
        assert "plan.parquet: damaged" in vectors["missing"][0]
        assert "remove it" in vectors["missing"][0]
    else:
        assert 0 < vectors["embedded"] < 6
        assert "unfinished: 0 (seq_id 0 to" in vectors["missing"][0]
    assert {**about, "embeddings": []} == {**whole, "embeddings": []}
    ran = cli("info", copied)
    assert ran.code == 0
    (line,) = [line for line in ran.out.splitlines() if line.startswith("embeddings")]
    assert "incomplete: " in line
    assert "annotations  families" in ran.out


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, UsageError, "exactly one of sequences, ids and vectors"),
        ({"sequences": S1, "ids": ["s1"]}, UsageError, "exactly one of sequences, ids and vectors"),
        ({"sequences": []}, UsageError, "no query"),
        ({"sequences": S1, "k": 0}, UsageError, "k is 0"),
        ({"sequences": "MKL"}, UsageError, "query_1 ('MKL'): letter 'L' at position 3"),
        ({"sequences": [S1, "AC"], "names": ["x"]}, UsageError, "1 names for 2 queries"),
        ({"ids": ["s1"], "names": ["x", "y"]}, UsageError, "2 names for 1 queries"),
        ({"ids": ["nobody"]}, StoreError, "no record with id nobody"),
        ({"vectors": np.zeros((1, 3), np.float32)}, StoreError, "16"),
        ({"vectors": np.full((1, 16), np.nan, np.float32)}, StoreError, "zero or not finite"),
        ({"sequences": S1, "columns": ["x"]}, StoreError, "no column 'x'"),
        ({"sequences": S1, "where": "x = 1"}, StoreError, "no column 'x'"),
    ],
)
def test_questions_that_cannot_be_answered(
    atlas: Atlas, arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        atlas.search(**arguments).to_arrow()  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_many_threads_ask_at_once(headed: Path, tmp_path: Path, cli: Cli) -> None:
    """Also while the index and the model are not loaded yet; everybody gets the answers of one who is alone."""
    (tmp_path / "in.fa").write_text(FASTA)
    options = ["--model", headed, "--executor", "inline"]
    assert cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", *options).code == 0
    assert cli("index", tmp_path / "atlas").code == 0
    questions = [
        lambda atlas: atlas.search(S1, k=3, where="length > 12").to_pylist(),
        lambda atlas: atlas.search(ids=["s1", "u1"]).to_pylist(),
        lambda atlas: atlas.fill_mask("AC<mask>GU").to_pylist(),
        lambda atlas: atlas.predict(S1, heads=["rna_type", "structure"])["structure"].to_pylist(),
        lambda atlas: atlas.get(["copy"]).to_pylist(),
        lambda atlas: atlas.sql("SELECT count(*) AS n FROM records").to_pylist(),
        lambda atlas: atlas.vectors(["u1"]).tolist(),
    ]
    alone = raypipe.connect(tmp_path / "atlas")
    wanted = [ask(alone) for ask in questions]
    shared = raypipe.connect(tmp_path / "atlas")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, shared) for _ in range(6) for ask in questions]
        for place, found in enumerate(asked):
            assert found.result() == wanted[place % len(questions)]


def test_another_model_is_refused(finished: Path, other: Path) -> None:
    with pytest.raises(StoreError, match="vectors of different models cannot be compared"):
        Atlas(finished, model=str(other)).search(S1).to_arrow()


def test_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not an atlas"):
        raypipe.connect(tmp_path)


def test_every_public_name_is_there() -> None:
    assert all(getattr(raypipe, name) is not None for name in raypipe.__all__)


def test_connecting_and_sql_load_neither_torch_nor_ray(finished: Path, root: Path) -> None:
    code = (
        "import sys, raypipe; raypipe.connect(sys.argv[1]).sql('SELECT 1').to_pylist(); "
        "print([name for name in ('torch', 'ray', 'faiss') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(finished)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "[]\n", ran.stderr
