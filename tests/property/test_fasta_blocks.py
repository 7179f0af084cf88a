"""FASTA read by blocks gives what the reader of single records gives, whatever the bytes and wherever blocks end."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.batches import Batch, in_batches
from raypipe.errors import InputError
from raypipe.fasta_blocks import ahead, clean_blocks, read_blocks
from raypipe.sources import _read_fasta

# Whatever means something to a reader of FASTA, beside letters that do not.
PIECES = st.sampled_from(
    [b">", b"\n", b"\n>", b"\r\n", b"\r", b"\n\n", b" ", b"\t", b"#", b"a", b"id x y", b"ACGU", b"acgtn", b"L", b"-"]
)
ODD = st.sampled_from([b"1", b"*", b"\xef\xbb\xbf", b"\xe9", "é".encode(), b"\x1c", b"\x0b", b"\x00", "\x85".encode()])
TEXTS = st.lists(st.one_of(PIECES, PIECES, ODD), max_size=40).map(lambda pieces: b">" + b"".join(pieces))


def _told(batches: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    rows: list[dict[str, Any]] = []
    rejected: list[Any] = []
    for good, bad in batches:
        good.validate(full=True)
        rows += good.to_pylist()
        rejected += bad
    return rows, rejected


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.integers(1, 60))
def test_as_record_by_record(text: bytes, size: int) -> None:
    read = partial(_read_fasta, "x.fa")
    slowly = _told(in_batches(read(io.BufferedReader(io.BytesIO(text)), 1)))  # pyright: ignore[reportArgumentType]
    blocks = list(read_blocks(io.BytesIO(text), size))
    assert b"".join(blocks) == text
    assert _told(clean_blocks(blocks, read)) == slowly


def test_what_goes_wrong_ahead_is_told_where_it_is_used() -> None:
    def broken() -> Any:
        yield b">a\nAC\n"
        raise InputError("x.gz: damaged")

    seen: list[Batch] = []
    with pytest.raises(InputError, match=r"x\.gz: damaged"):
        seen.extend(clean_blocks(broken(), partial(_read_fasta, "x.fa")))
    assert _told(seen)[0] == [{"id": "a", "description": "", "length": 2, "sequence": "AC"}]


def test_no_more_is_read_than_is_asked_for() -> None:
    made: list[int] = []

    def endless() -> Any:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    items = ahead(endless(), depth=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()  # pyright: ignore[reportAttributeAccessIssue] (a generator)
    assert len(made) <= 7
