"""What is said of data before a head is taught on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.errors import InputError
from raypipe.finetuning.cautions import FEW, cautions, check_taught, split_by
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.spaces import IGNORE, Space


def settings(**more: Any) -> FinetuneSettings:
    return FinetuneSettings(task="sequence", data=[Path("x")], output=Path("o"), **more)


def examples(space: Space, labels: Any, valid: int = FEW, long: int = 10) -> Examples:
    """`labels` of train, and as many again in valid."""
    rows = [np.asarray(one) for one in (*labels, *(labels[0] for _ in range(valid)))]
    ids = [f"s{k}" for k in range(len(rows))]
    parts = np.array(["train"] * len(labels) + ["valid"] * valid)
    return Examples(ids, ids, ["A" * 10] * (len(rows) - 1) + ["A" * long], rows, parts, space)


YES = Space("sequence", "binary", ("yes",))
BOTH = examples(YES, [0.0, 1.0])


def test_relatives_on_both_sides() -> None:
    (said,) = cautions(BOTH, settings(), 1022)
    assert said.startswith("split by sequence: relatives of what is trained on may be measured")
    for more, words in (
        ({"group_column": ["clan", "family"]}, "clan, then family"),
        ({"cluster": 0.8}, "clusters of sequences alike to 0.8"),
        ({"group_column": ["family"], "cluster": 0.8}, "family and clusters of sequences alike to 0.8"),
        ({"split_column": "part"}, "the column part"),
        ({"cluster": 0.8, "test_where": "x = 1"}, "test where x = 1; clusters of sequences alike to 0.8"),
    ):
        assert cautions(BOTH, settings(**more), 1022) == []
        assert split_by(settings(**more)) == words
    assert split_by(settings()) == "sequence"
    (said,) = cautions(BOTH, settings(test_where="x = 1"), 1022)
    assert said.startswith("split by test where x = 1; sequence: relatives")


def test_parts_of_few_sequences() -> None:
    few = examples(YES, [0.0, 1.0], valid=FEW - 1)
    assert cautions(few, settings(cluster=0.8), 1022) == [
        "valid has 29 sequences only: what is chosen on so few is mostly chance; give it more"
    ]
    assert "what is measured on so few" in cautions(few, settings(cluster=0.8, epochs=0), 1022)[0]


def test_outputs_that_nothing_is_learned_of() -> None:
    space = Space("sequence", "multilabel", ("a", "b", "c"), {"0": 0, "1": 1})
    found = examples(space, [[1.0, 0, 1], [0, 0, 1], [1, IGNORE, IGNORE]])
    assert cautions(found, settings(cluster=0.8), 1022) == [
        "no yes in train, so nothing to learn: b",
        "no no in train, so nothing to learn: c",
    ]


def test_long_sequences_of_a_trunk_that_is_trained() -> None:
    long = examples(YES, [0.0, 1.0], long=20_000)
    assert cautions(long, settings(cluster=0.8), 1022) == []
    (said,) = cautions(long, settings(cluster=0.8, method="lora"), 1022)
    assert said.startswith("the longest sequence has 20,000 nt")


@pytest.mark.parametrize(
    ("problem", "labels", "said"),
    [
        ("binary", [1.0, 1.0, IGNORE], "column c: yes only in what is trained on"),
        ("binary", [0.0, 0.0], "column c: no only in what is trained on"),
        ("binary", [IGNORE, IGNORE], "column c: no label at all"),
        ("regression", [-100.0, np.nan], "column c: -100 only"),
        ("binary", [0.0, 1.0], None),
        ("regression", [-100.0, 3.0], None),
        ("regression", [[1.0, np.nan], [2.0, np.nan]], "column c: no value of b"),
        ("regression", [[1.0, np.nan], [2.0, 5.0]], None),
    ],
)
def test_one_value_teaches_nothing(problem: Any, labels: list[Any], said: str | None) -> None:
    names = ("a", "b") if isinstance(labels[0], list) else ("c",)
    found = examples(Space("sequence", problem, names), labels)
    if said is None:
        check_taught(found, ("c",))
    else:
        with pytest.raises(InputError, match=said):
            check_taught(found, ("c",))
