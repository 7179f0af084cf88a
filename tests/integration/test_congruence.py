"""A folder and a server over it give the same answers and the same errors, with and without asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import raypipe
from raypipe import AtlasError, RaypipeError, UsageError
from raypipe.cli import run
from tests.headed import INLINE, SHARDS
from tests.integration.conftest import FASTA, TABLE
from tests.served import served

S1, LONG = "GGGCCCAAAUUU", "ACGU" * 300
WHERE = "family = 'tRNA' AND rank > 0"
ALL = [
    "query",
    "rank",
    "id",
    "score",
    "length",
    "description",
    "family",
    "seq_id",
    "n_records",
    "structure_dot_bracket",
]
VECTORS = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)
GAPS = {"a": "AC<mask>U", "b": "gg<mask><mask>tt"}

# Both are asked these; an answer is what Arrow, NumPy or plain values say.
QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "a sequence": lambda atlas: atlas.search(S1, k=3),
    "small letters and T": lambda atlas: atlas.search(" gggcccaaattt\n", k=2),
    "long": lambda atlas: atlas.search(LONG, k=2),
    "sequences": lambda atlas: atlas.search([S1, "ACGU", S1], k=2),
    "names": lambda atlas: atlas.search({"x": S1, "y y": "ACGU"}, k=1, columns=["query", "id"]),
    "names apart": lambda atlas: atlas.search([S1, S1], names=["same", "same"], k=1),
    "ids": lambda atlas: atlas.search(ids=["s1", "u1", "s1"], k=4),
    "ids with names": lambda atlas: atlas.search(ids=["s1"], names=["mine"], k=1),
    "vectors": lambda atlas: atlas.search(vectors=VECTORS, k=3),
    "one vector": lambda atlas: atlas.search(vectors=VECTORS[0].tolist(), names=["v"], k=1),
    "more than there are": lambda atlas: atlas.search(S1, k=100),
    "all columns": lambda atlas: atlas.search(S1, columns=ALL),
    "filter": lambda atlas: atlas.search(S1, where=WHERE),
    "nothing matches": lambda atlas: atlas.search([S1, "ACGU"], where="length > 99999"),
    "min_score": lambda atlas: atlas.search(S1, min_score=0.9999),
    "exact": lambda atlas: atlas.search(S1, k=3, exact=True, recall=0.5),
    "chained": lambda atlas: atlas.search(S1).where(WHERE + " -- so").where("length < 60").limit(1).select(["id"]),
    "chained more": lambda atlas: atlas.search(ids=["s1"]).min_score(0.1).exact().recall(0.9).limit(2),
    "all annotations": lambda atlas: atlas.search(S1, k=2, all_annotations=True),
    "all records": lambda atlas: atlas.search([S1, "ACGU"], k=2, expand_records=True),
    "of vectors": lambda atlas: atlas.search(vectors=VECTORS, k=2, expand_records=True, all_annotations=True),
    "neighbors": lambda atlas: atlas.neighbors(["s1", "u1"], k=2, columns=["query", "rank", "id", "score"]),
    "neighbors, filtered": lambda atlas: atlas.neighbors(["s1"], where="family = 'other'"),
    "neighbors of a copy": lambda atlas: atlas.neighbors("copy", k=100),
    "sql": lambda atlas: atlas.sql(
        "SELECT id, length, NULL AS n, [1.5, 2] AS l FROM records JOIN sequences USING (seq_id)"
    ),
    "sql, parameters": lambda atlas: atlas.sql("SELECT ? AS a, ? AS b, ? AS c", ["x", 2**40, None]),
    "sql, named": lambda atlas: atlas.sql("SELECT count(*) AS n FROM records WHERE id = $id", {"id": "t1"}),
    "sql, types": lambda atlas: atlas.sql(
        "SELECT 1::TINYINT AS t, DATE '2026-01-02' AS d, {'a': 1, 'b': 'x'} AS s, 1.5::FLOAT f"
    ),
    "get": lambda atlas: atlas.get(["u1", "copy", "t1", "u1"]),
    "get one": lambda atlas: atlas.get("s1"),
    "get, as they come": lambda atlas: atlas.get(id_ for id_ in ("u1", "t1")),
    "vectors of ids": lambda atlas: atlas.vectors(["u1", "s1", "u1"]),
    "vectors of seq_ids": lambda atlas: atlas.vectors(seq_ids=[3, 0]),
    "embed": lambda atlas: atlas.embed([S1, "acgt", LONG]),
    "embed one": lambda atlas: atlas.embed(S1),
    "fill-mask": lambda atlas: atlas.fill_mask(GAPS, top_k=3),
    "fill-mask, one": lambda atlas: atlas.fill_mask("AC<mask>"),
    "predict": lambda atlas: atlas.predict({"p": S1, "q": "ACGUUGCA"}, heads=["structure", "rna_type", "places"]),
    "predict, all kinds": lambda atlas: atlas.predict(
        ["ACGUUGCA"], ["coding", "half_life", "two_values", "loops", "kinds"]
    ),
    "predict, one": lambda atlas: atlas.predict(S1, heads="reactivity"),
}
# What is wrong is told in the same words, by the same kinds of errors.
MISTAKES: dict[str, tuple[Callable[[Any], Any], type[RaypipeError], str]] = {
    "nothing": (lambda atlas: atlas.search(), UsageError, "usage"),
    "two kinds": (lambda atlas: atlas.search(S1, ids=["s1"]), UsageError, "usage"),
    "no query": (lambda atlas: atlas.search([]), UsageError, "usage"),
    "k": (lambda atlas: atlas.search(S1, k=0), UsageError, "usage"),
    "half a k": (lambda atlas: atlas.search(S1, k=1.5), UsageError, "usage"),
    "names": (lambda atlas: atlas.search([S1, S1], names=["x"]), UsageError, "usage"),
    "itself": (lambda atlas: atlas.search(S1, itself=False), UsageError, "usage"),
    "one column as text": (lambda atlas: atlas.search(S1, columns="id"), UsageError, "usage"),
    "cube": (lambda atlas: atlas.search(vectors=VECTORS[None]), UsageError, "usage"),
    "no text": (lambda atlas: atlas.get([5]), UsageError, "usage"),
    "no list": (lambda atlas: atlas.embed(5), UsageError, "usage"),
    "protein": (lambda atlas: atlas.search([S1, "MKLV"]), UsageError, "usage"),
    "empty": (lambda atlas: atlas.search({"nil": ""}), UsageError, "usage"),
    "no such id": (lambda atlas: atlas.search(ids=["s1", "nobody", "nobody"]), AtlasError, "not_found"),
    "an id of several": (lambda atlas: atlas.search(ids=["t1"]), AtlasError, "invalid"),
    "dimension": (lambda atlas: atlas.search(vectors=VECTORS[:, :4]), AtlasError, "invalid"),
    "zero": (lambda atlas: atlas.search(vectors=0 * VECTORS), AtlasError, "invalid"),
    "column": (lambda atlas: atlas.search(S1, columns=["id", "nothing"]), AtlasError, "invalid"),
    "column twice": (lambda atlas: atlas.search(S1, columns=["id", "id"]), AtlasError, "invalid"),
    "column of a filter": (lambda atlas: atlas.search(S1, where="nothing = 1"), AtlasError, "invalid"),
    "no condition": (lambda atlas: atlas.search(S1).where("SELECT"), AtlasError, "invalid"),
    "type of a filter": (lambda atlas: atlas.search(S1, where="length = 'x'"), AtlasError, "invalid"),
    "sql": (lambda atlas: atlas.sql("SELEC 1"), AtlasError, "invalid"),
    "sql, table": (lambda atlas: atlas.sql("SELECT * FROM nothing"), AtlasError, "invalid"),
    "sql, two": (lambda atlas: atlas.sql("SELECT 1; SELECT 2"), AtlasError, "invalid"),
    "sql, writing": (lambda atlas: atlas.sql("CREATE TABLE x AS SELECT 1"), AtlasError, "invalid"),
    "get": (lambda atlas: atlas.get(["s1", "nobody"]), AtlasError, "not_found"),
    "get nothing": (lambda atlas: atlas.get([]), UsageError, "usage"),
    "vectors": (lambda atlas: atlas.vectors(["nobody"]), AtlasError, "not_found"),
    "vectors of nothing": (lambda atlas: atlas.vectors(), UsageError, "usage"),
    "vectors of seq_ids": (lambda atlas: atlas.vectors(seq_ids=[77]), AtlasError, "invalid"),
    "vectors of no seq_ids": (lambda atlas: atlas.vectors(seq_ids=[]), UsageError, "usage"),
    "embed": (lambda atlas: atlas.embed([S1, "AC GU"]), UsageError, "usage"),
    "embed nothing": (lambda atlas: atlas.embed([]), UsageError, "usage"),
    "no mask": (lambda atlas: atlas.fill_mask({"z": "ACGU"}), UsageError, "usage"),
    "mask in protein": (lambda atlas: atlas.fill_mask(["A<mask>", "MKL<mask>"]), UsageError, "usage"),
    "mask, too long": (lambda atlas: atlas.fill_mask(LONG + "<mask>"), UsageError, "usage"),
    "top_k": (lambda atlas: atlas.fill_mask("A<mask>", top_k=0), UsageError, "usage"),
    "no head": (lambda atlas: atlas.predict(S1, heads=[]), UsageError, "usage"),
    "no such head": (lambda atlas: atlas.predict(S1, heads=["nothing"]), AtlasError, "invalid"),
    "predict protein": (lambda atlas: atlas.predict({"p": "MKL"}, heads=["structure"]), UsageError, "usage"),
}  # fmt: skip


# Of these the server's fence speaks before what it guards does; the same is wrong.
FENCED = ("no condition", "sql, table")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, headed: Path) -> Path:
    """An atlas with vectors, predictions, an index and annotations, whose model has heads of every kind."""
    folder = tmp_path_factory.mktemp("congruent")
    (folder / "in.fa").write_text(FASTA)
    (folder / "families.tsv").write_text(TABLE)
    atlas = str(folder / "atlas")
    for arguments in (
        ["embed", str(folder / "in.fa"), "-o", atlas, "--model", str(headed), "--heads", "structure", *INLINE, *SHARDS],
        ["index", atlas],
        ["annotate", atlas, f"families={folder / 'families.tsv'}"],
    ):
        assert run(arguments) == 0, arguments
    return Path(atlas)


@pytest.fixture(scope="module")
def url(made: Path) -> Iterator[str]:
    """A server over it that takes three queries at a time, so that more are sent in parts."""
    with served(made, max_queries=3) as address:
        yield address


@pytest.fixture(scope="module")
def local(made: Path) -> Any:
    """The folder, opened."""
    return raypipe.connect(made)


@pytest.fixture(scope="module")
def remote(url: str) -> Iterator[Any]:
    """The server, asked."""
    with raypipe.connect(url, retries=0) as atlas:
        yield atlas


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_same_answers(local: Any, remote: Any, question: str) -> None:
    assert_same(QUESTIONS[question](remote), QUESTIONS[question](local))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_same_errors(local: Any, remote: Any, mistake: str) -> None:
    ask, kind, code = MISTAKES[mistake]
    said = []
    for atlas in (local, remote):
        with pytest.raises(kind) as caught:
            plain(ask(atlas))
        assert getattr(caught.value, "code", None) == code
        said.append(str(caught.value))
    if mistake in FENCED:
        said = [text.rpartition(": ")[2] for text in said]
    assert said[0] == said[1]


def test_the_same_without_waiting(made: Path, url: str, local: Any) -> None:
    """All questions at once, of both kinds, and all mistakes."""

    async def ask_all() -> None:
        for target in (str(made), url):
            async with await raypipe.connect_async(target) as atlas:
                answers = await asyncio.gather(*(_awaited(ask(atlas)) for ask in QUESTIONS.values()))
                for question, answer in zip(QUESTIONS, answers, strict=True):
                    assert_same(answer, QUESTIONS[question](local))
                for ask, kind, code in MISTAKES.values():
                    with pytest.raises(kind) as caught:
                        await _awaited(ask(atlas))
                    assert getattr(caught.value, "code", None) == code
                assert (await atlas.info())["records"] == 7

    asyncio.run(ask_all())


async def _awaited(answer: Any) -> Any:
    return await answer


def test_how_and_info(local: Any, remote: Any) -> None:
    for question in ("a sequence", "filter", "exact", "neighbors"):
        assert QUESTIONS[question](remote).how == QUESTIONS[question](local).how
    here, there = local.info(), remote.info()
    assert there.pop("limits")["max_queries"] == 3
    assert there.pop("server") == {"version": raypipe.__version__}
    assert there["path"].startswith("http://127.0.0.1:")
    assert here.keys() == there.keys()
    for name in here.keys() - {"path", "sources", "embeddings", "predictions"}:
        assert here[name] == there[name], name


def test_anndata_and_files_of_both(local: Any, remote: Any, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    for columns in (["query", "id", "score", "family", "n_records"], ["seq_id", "structure_i"]):
        found = []
        for name, atlas in (("here", local), ("there", remote)):
            hits = atlas.search(S1, where="family = 'other'", columns=columns)
            hits.write(tmp_path / f"{name}.h5ad")
            hits.write(tmp_path / f"{name}.tsv")
            found.append(anndata.read_h5ad(tmp_path / f"{name}.h5ad"))
        assert np.array_equal(found[0].X, found[1].X)
        assert np.array_equal(found[0].X, local.vectors(["s1", "u1"])[: len(found[0])])
        assert found[0].X.dtype == np.float32
        assert found[0].obs.equals(found[1].obs)
        assert list(found[0].obs.columns) == columns
        assert found[0].uns == found[1].uns
        assert (tmp_path / "here.tsv").read_bytes() == (tmp_path / "there.tsv").read_bytes()
    for atlas in (local, remote):
        with pytest.raises(UsageError, match="the column seq_id or id is needed"):
            atlas.search(S1, columns=["score"]).to_anndata()
        with pytest.raises(UsageError, match="these rows are no hits"):
            atlas.sql("SELECT 1 AS id").to_anndata()


def test_many_queries_with_a_bar(local: Any, remote: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """In parts, in order, and told on standard error."""
    queries = [f"ACGU{'ACGU'[i % 4] * (i // 4 % 7)}GG" for i in range(40)]
    assert_same(remote.search(queries, k=2, progress=True), local.search(queries, k=2))
    said = capfd.readouterr()
    assert "40/40" in said.err
    assert said.out == ""
    assert_same(remote.vectors(["s1", "u1"] * 5), local.vectors(["s1", "u1"] * 5))
    with pytest.raises(UsageError, match=r"query_8 \('MKL'\)"):
        len(remote.search([*queries[:7], "MKL"]))


def plain(answer: Any) -> Any:
    """An answer asked for: a table, vectors, or such by head."""
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items()}
    return answer if isinstance(answer, np.ndarray | pa.Table) else answer.to_arrow()


def assert_same(one: Any, other: Any) -> None:
    """Equal in names, types and values; numbers that the model made but for their last bits."""
    one, other = plain(one), plain(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    else:
        assert str(one.schema) == str(other.schema)
        assert one.num_rows == other.num_rows
        for name in one.column_names:
            _assert_same_values(one[name], other[name])


def _assert_same_values(one: pa.ChunkedArray, other: pa.ChunkedArray) -> None:
    kind = one.type
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not pa.types.is_floating(kind):
        assert one.equals(other)
        return
    for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True):
        if a is None or b is None:
            assert a is b
        else:
            np.testing.assert_allclose(np.array(a, float), np.array(b, float), rtol=1e-4, atol=1e-5)
