"""Queries as the client takes them, before any model is loaded."""

from __future__ import annotations

import pytest

from raypipe.errors import UsageError
from raypipe.queries import clean_queries


def test_names_and_canonical_letters() -> None:
    assert clean_queries("acgt") == (["query_1"], ["ACGU"])
    assert clean_queries(["AC", " gt\n"]) == (["query_1", "query_2"], ["AC", "GU"])
    assert clean_queries({"x": "AC", "y": "T"}) == (["x", "y"], ["AC", "U"])
    assert clean_queries(["AC", "AC"], ["x", "x"]) == (["x", "x"], ["AC", "AC"])


@pytest.mark.parametrize(
    ("sequences", "names", "words"),
    [
        ([], None, "no query"),
        (["AC", "GU"], ["x"], "1 names for 2 queries"),
        (["AC"], ["x", "y"], "2 names for 1 queries"),
        (["AC", "MKL"], None, "query_2 ('MKL'): letter 'L' at position 3"),
        ({"x": ""}, None, "x (''): empty sequence"),
        (["E" * 100], None, "query_1 ('" + "E" * 30 + "...')"),
    ],
)
def test_what_is_no_query(sequences: object, names: list[str] | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        clean_queries(sequences, names)  # type: ignore[arg-type]
    assert words in str(caught.value)
