"""Labels as people write them, and what they are taken for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raypipe.errors import InputError, UsageError
from raypipe.finetuning.labels import LabelError, Parser, Words
from raypipe.finetuning.spaces import IGNORE, Space, settle

PLAIN = Words.of([], ["NA", "nan"])
NAN = float("nan")


def parse(task: Any, *cells: Any, length: int = 4, words: Words = PLAIN, problem: Any = None) -> Any:
    columns = tuple(f"c{k}" for k in range(len(cells)))
    return Parser(task, columns, words, problem)(dict(zip(columns, cells, strict=True)), length)


def space_of(
    task: Any, *raws: Any, problem: Any = None, columns: tuple[str, ...] = ("c",), positive: str | None = None
) -> Space:
    arrays = [np.asarray(raw) for raw in raws]
    return settle(task, columns, arrays, arrays, problem, positive)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("tRNA", "tRNA"),
        (" tRNA ", "tRNA"),
        (7, "7"),
        (True, "1"),
        (0.25, 0.25),
        ("0.25", "0.25"),
        (["a", "b"], ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("[1, 0]", ["1", "0"]),
        ([0.5, None], [0.5, NAN]),
    ],
)
def test_labels_of_sequences(cell: Any, expected: Any) -> None:
    np.testing.assert_array_equal(parse("sequence", cell), np.asarray(expected))


@pytest.mark.parametrize("cell", [None, "", " ", "NA", NAN])
def test_nothing_is_no_label(cell: Any) -> None:
    assert parse("sequence", cell) is None
    assert parse("token", cell) is None
    assert parse("structure", cell) is None


def test_names_in_a_text_where_several_are_meant() -> None:
    np.testing.assert_array_equal(parse("sequence", "a; b|c", problem="multilabel"), ["a", "b", "c"])
    np.testing.assert_array_equal(parse("sequence", "a; b"), "a; b")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("(..)", ["(", ".", ".", ")"]),
        ("1,2,NA,4", ["1", "2", "", "4"]),
        ("0.5 1e-3\t-2 nan", ["0.5", "1e-3", "-2", ""]),
        ("0.1, 0.2 ,0.3 , 0.4", ["0.1", "0.2", "0.3", "0.4"]),
        # As many characters as nucleotides: an annotation that uses commas.
        (",..,", [",", ".", ".", ","]),
        ([0, 1, None, 1], ["0", "1", "", "1"]),
        ("[0, 1, 1, 0]", ["0", "1", "1", "0"]),
        ([0.5, None, 2.0, 1], [0.5, NAN, 2.0, 1.0]),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], [["0", "1"], ["1", "1"], ["0", "0"], ["1", "0"]]),
    ],
)
def test_labels_of_nucleotides(cell: Any, expected: Any) -> None:
    np.testing.assert_array_equal(parse("token", cell), np.asarray(expected))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("(..", "3 labels for 4 nucleotides"),
        ([1, 2, 3], "3 labels for 4 nucleotides"),
        (5, "5 is one label, and there are 4 nucleotides"),
        ([[1, 2], [1], [1, 2], [1, 2]], "nucleotides with different numbers of labels"),
        ([0.5, 1.0, float("inf"), 1.0], "an infinite number"),
    ],
)
def test_labels_that_do_not_fit_nucleotides(cell: Any, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        parse("token", cell)


@pytest.mark.parametrize(
    "cells",
    [
        ("(()).",),
        ([(0, 3), (1, 2)],),
        ("[[3, 0], [1, 2], [2, 1]]",),
        ([0, 1], [3, 2]),
        ([{"i": 1, "j": 2}, {"i": 0, "j": 3}],),
    ],
)
@pytest.mark.parametrize("task", ["structure", "contact"])
def test_pairs(task: str, cells: Any) -> None:
    np.testing.assert_array_equal(parse(task, *cells, length=5), [[0, 3], [1, 2]])


def test_a_structure_without_pairs_is_a_label() -> None:
    assert parse("structure", "....").tolist() == []
    assert parse("contact", []).shape == (0, 2)


@pytest.mark.parametrize(
    ("task", "cell", "said"),
    [
        ("structure", "((.)", r"'\(' at position 1, which is never closed"),
        ("structure", "(...)", "a dot-bracket of 5 characters for 4 nucleotides"),
        ("structure", [(0, 2), (0, 3)], "is in two pairs"),
        ("contact", [(0, 4)], r"the pair \[0, 4\] is outside of the 4 nucleotides"),
        ("contact", [(1, 1)], "pairs with itself"),
        ("contact", [(0, 1, 2)], "two whole numbers each"),
        ("contact", [(0, 1), (2,)], "pairs of different lengths"),
        ("contact", [(0.5, 1.0)], "two whole numbers each"),
        ("contact", 3, "no list of pairs and no dot-bracket"),
    ],
)
def test_pairs_that_are_none(task: str, cell: Any, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        parse(task, cell)


def test_contacts_may_share_a_nucleotide() -> None:
    assert parse("contact", [(0, 2), (0, 3)]).tolist() == [[0, 2], [0, 3]]


def test_renaming() -> None:
    words = Words.of(["(=paired", ")=paired", "*=free", "x="], ["?"])
    np.testing.assert_array_equal(parse("token", "(.)x?", length=5, words=words), ["paired", "free", "paired", "", ""])
    for wrong in (["a"], ["=b"], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            Words.of(wrong, [])


@pytest.mark.parametrize(
    ("task", "raws", "problem", "names"),
    [
        ("sequence", ["b", "a", "b"], "multiclass", ("a", "b")),
        ("sequence", ["10", "9", "2"], "multiclass", ("2", "9", "10")),
        ("sequence", ["0", "1", ""], "binary", ("c",)),
        ("sequence", ["true", "False"], "binary", ("c",)),
        ("sequence", [0.5, 1.0], "regression", ("c",)),
        ("sequence", ["0.5", "1"], "regression", ("c",)),
        ("sequence", [["x", "y"], ["y"]], "multilabel", ("x", "y")),
        ("sequence", [["0", "1"], ["1", "1"]], "multilabel", ("0", "1")),
        ("sequence", [[0.5, 1.0], [1.0, 2.0]], "regression", ("0", "1")),
        ("token", [["(", "."], ["."]], "multiclass", ("(", ".")),
        ("token", [["0", "1"], ["0"]], "binary", ("c",)),
        ("token", [[0.5, 1.0], [2.0]], "regression", ("c",)),
        ("token", [[["0", "1"], ["1", "1"]]], "multilabel", ("0", "1")),
    ],
)
def test_what_labels_are_taken_for(task: Any, raws: Any, problem: str, names: tuple[str, ...]) -> None:
    found = space_of(task, *raws)
    assert (found.problem, found.names) == (problem, names)


def test_columns_name_outputs() -> None:
    found = space_of("sequence", ["0", "1"], ["1", ""], columns=("nucleus", "cytosol"))
    assert (found.problem, found.names) == ("multilabel", ("nucleus", "cytosol"))


def test_two_words_can_be_yes_and_no() -> None:
    """The user says which, since the alphabet does not know."""
    found = space_of("sequence", "binder", "control", positive="binder")
    assert (found.problem, found.names) == ("binary", ("binder",))
    assert [float(found.encode(np.array(word))) for word in ("control", "binder", "")] == [0, 1, IGNORE]
    with pytest.raises(InputError, match="the labels are a and b; say which is yes: --positive b"):
        space_of("sequence", "b", "a", problem="binary")
    with pytest.raises(InputError, match="--positive c is none of them"):
        space_of("sequence", "b", "a", positive="c")
    with pytest.raises(InputError, match="3 different labels"):
        space_of("sequence", "a", "b", "c", problem="binary")


@pytest.mark.parametrize(
    ("raws", "encoded"),
    [([0.0, 1.0, NAN], [0, 1, IGNORE]), (["0.0", "1.0", ""], [0, 1, IGNORE]), (["1.0", "1.0"], [1, 1])],
)
def test_yes_or_no_as_a_column_with_gaps_has_it(raws: list[Any], encoded: list[float]) -> None:
    """pandas writes 0.0 and 1.0 where some are missing; these may be values as well."""
    with pytest.raises(InputError, match=r"the labels are 0\.0 and 1\.0.*--problem binary or regression"):
        space_of("sequence", *raws)
    found = space_of("sequence", *raws, problem="binary")
    assert found.names == ("c",)
    assert [float(found.encode(np.asarray(raw))) for raw in raws] == encoded
    assert space_of("sequence", *raws, problem="regression").problem == "regression"
    with pytest.raises(InputError, match="--problem multilabel or regression"):
        space_of("sequence", [0.0, 1.0], [NAN, 0.0], columns=("a", "b"))


def test_labels_that_nobody_can_place() -> None:
    with pytest.raises(InputError, match="one class only, 'a'"):
        space_of("sequence", "a", "a")
    with pytest.raises(InputError, match="40 different labels"):
        space_of("sequence", *map(str, range(40)))
    with pytest.raises(InputError, match="--problem regression or multilabel"):
        space_of("sequence", ["1", "2"], ["3", "4"])


def test_encoding() -> None:
    multiclass = Space("token", "multiclass", ("a", "b"))
    assert multiclass.encode(np.array(["b", "", "a", "z"])).tolist() == [1, IGNORE, 0, IGNORE]
    assert multiclass.unknown(np.array(["b", "", "z"])) == {"z"}
    names = Space("sequence", "multilabel", ("a", "b", "c"))
    assert names.encode(np.array(["c", "a"])).tolist() == [1, 0, 1]
    flags = Space("sequence", "multilabel", ("a", "b"), {"0": 0, "1": 1})
    assert flags.encode(np.array(["1", ""])).tolist() == [1, IGNORE]
    values = Space("sequence", "regression", ("c",))
    assert float(values.encode(np.array("2.5"))) == 2.5
    assert np.isnan(values.encode(np.array("")))
    for wrong in ("abc", "inf", "nan"):
        with pytest.raises(LabelError, match="where a finite number is expected"):
            values.encode(np.array(wrong))
    with pytest.raises(LabelError, match="where one value"):
        values.encode(np.array([1.0, 2.0]))
    with pytest.raises(LabelError, match="2 labels where one class"):
        Space("sequence", "multiclass", ("a", "b")).encode(np.array(["a", "b"]))
