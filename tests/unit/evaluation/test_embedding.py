"""Vectors by several poolings and layers in one pass; and reports."""

from __future__ import annotations

import io
import json
import math
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from model import ModelError, load
from raypipe.checkpoints import find_checkpoint
from raypipe.errors import UsageError
from raypipe.evaluation.embedding import Progress, check_layers, chunks, embed_all, load_model
from raypipe.evaluation.reports import Column, Report, Table, write_report
from raypipe.evaluation.settings import RetrievalSettings
from tests.headed import make_headed

RNG = np.random.default_rng(2)
SEQUENCES = ["".join(RNG.choice(list("ACGU"), length)) for length in (5, 1500, 40, 40, 7, 300, 1)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_headed(tmp_path_factory.mktemp("each") / "tiny")


def test_all_at_once_is_each_alone(checkpoint: Path) -> None:
    model = load(checkpoint)
    which = [("mean", -1), ("max", 0), ("cls", 1), ("mean", 0)]
    for found, (pooling, layer) in zip(model.embed_each(SEQUENCES, which), which, strict=True):  # pyright: ignore
        assert np.array_equal(found, model.embed(SEQUENCES, pooling, layer))  # pyright: ignore[reportArgumentType]
    assert model.embed_each(SEQUENCES, []) == []


def test_what_there_is_not_to_embed(checkpoint: Path) -> None:
    model = load(checkpoint)
    with pytest.raises(ModelError, match="pooling is mean, cls or max"):
        model.embed_each(SEQUENCES, [("median", -1)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="layer must be 0"):
        model.embed_each(SEQUENCES, [("mean", 2)])
    with pytest.raises(ModelError, match="nothing to pool"):
        model.embed_each(["ACGU", ""], [("mean", -1)])


def test_chunks_give_the_vectors_in_the_order_given(checkpoint: Path) -> None:
    told = RetrievalSettings(max_tokens=8, on_long="truncate")
    model = load_model(find_checkpoint(str(checkpoint)), told)
    said: list[str] = []
    (found,) = embed_all(model, SEQUENCES, [("mean", -1)], told, said.append)
    assert found == pytest.approx(load(checkpoint).embed(SEQUENCES, long="truncate"), rel=1e-5, abs=1e-5)
    rows = list(chunks(SEQUENCES, 50))
    assert rows == [[1], [5], [2, 3], [4, 0, 6]]


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    progress = Progress("tiny", 200, said.append)
    progress.add(50)
    assert said == []
    monkeypatch.setattr("raypipe.evaluation.embedding.SAY_EVERY_S", 0)
    progress.add(50)
    assert said[0].startswith("tiny: 50 % read, ")


def test_layers_that_are_not_there(checkpoint: Path) -> None:
    found = find_checkpoint(str(checkpoint))
    check_layers(found, [-1, 0, 1])
    with pytest.raises(UsageError, match=r"--layer 2: tiny has the layers 0 \(embeddings\) to 1; -1 is the last"):
        check_layers(found, [0, 2])


REPORT = Report(
    {"evaluation": "test"},
    ["what it is"],
    [Column("name", "name"), Column("value", "value", ".2f"), Column("n", "n", ",d")],
    [{"name": "one", "value": 0.126, "n": 1000, "besides": 1}, {"name": "other", "value": math.nan}],
    ["a note"],
)


def written(report: Report, form: str) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        write_report(report, form, None, {"split": "all", "cache": Path("x")})  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def test_reports_for_people_and_programs() -> None:
    assert written(REPORT, "text").splitlines() == [
        "what it is",
        "",
        "name   value      n",
        "one     0.13  1,000",
        "other      -      -",
        "",
        "a note",
    ]
    assert written(REPORT, "tsv") == "name\tvalue\tn\tbesides\none\t0.126\t1000\t1\nother\t\t\t\n"
    found = json.loads(written(REPORT, "json"))
    assert found["rows"][1] == {"name": "other", "value": None}
    assert found["settings"] == {"split": "all", "cache": "x"}


def test_people_may_be_shown_other_tables() -> None:
    tables = [Table([Column("name", "who")], REPORT.rows[:1]), Table([Column("n", "n", "d")], REPORT.rows[:1])]
    report = Report(REPORT.about, [], REPORT.columns, REPORT.rows, [], tables)
    assert written(report, "text") == "who\none\n\n   n\n1000\n"
    assert written(report, "tsv") == written(REPORT, "tsv")
