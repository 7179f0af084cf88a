"""Streams of records: in order, in bounded chunks, and nothing vanishes silently."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import RaypipeError
from raypipe.streaming import Query, Reader, answer, chunks
from raypipe.text_forms import Form

FORM = Form("id\tresult\n", lambda id_, sequence, result: f"{id_}\t{sequence}\t{result}\n")


def reader_of(inputs: Sequence[str], **options: Any) -> tuple[Reader, list[str]]:
    said: list[str] = []
    return Reader(inputs, **{"context": 1022, "say": said.append, **options}), said


def run(reader: Reader, compute: Any, budget: int = 40) -> str:
    stream = io.StringIO()
    answer(reader, reader, compute, FORM, stream, cost=lambda length: length + 2, budget=budget)
    return stream.getvalue()


@given(st.lists(st.integers(1, 60)), st.integers(1, 100))
def test_chunks_keep_the_order_and_the_budget(lengths: list[int], budget: int) -> None:
    queries = [Query("", str(place), "A" * length) for place, length in enumerate(lengths)]
    made = list(chunks(iter(queries), lambda length: length, budget))
    assert [query for chunk in made for query in chunk] == queries
    for place, chunk in enumerate(made):
        limit = min(budget, budget / 8 * 2**place)
        assert len(chunk) == 1 or sum(len(query.sequence) for query in chunk) <= limit


def test_only_a_chunk_is_read_ahead() -> None:
    taken = 0

    def queries() -> Any:
        nonlocal taken
        for place in range(1000):
            taken += 1
            yield Query("", str(place), "ACGU")

    made = chunks(queries(), lambda length: length, 80)
    assert len(next(made)) == 2
    assert taken == 3
    assert [len(next(made)) for _ in range(5)] == [5, 10, 20, 20, 20]


def test_files_and_sequences_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">x one\nacgt\n>bad\nACGL\n>\nACGU\n")
    (tmp_path / "b.fq.gz").write_bytes(gzip.compress(b"@y\nGGCC\n+\nIIII\n"))
    (tmp_path / "c.csv").write_text("id,sequence\nz,UUUU\nempty,\n")
    inputs = ["GGUC", str(tmp_path / "b.fq.gz"), " nnac ", str(tmp_path / "a.fa"), str(tmp_path / "c.csv")]
    reader, said = reader_of(inputs)
    found = [(query.id, query.sequence) for query in reader]
    assert found == [("sequence_1", "GGUC"), ("y", "GGCC"), ("sequence_2", "NNAC"), ("x", "ACGU"), ("z", "UUUU")]
    assert said == [
        f"{tmp_path}/a.fa, line 3, bad: letter 'L' at position 4 is no nucleotide; this looks like protein",
        f"{tmp_path}/a.fa, line 5, no id: no id in its header; give every record a name",
        f"{tmp_path}/c.csv, line 3, empty: no value in column 'sequence'",
    ]
    assert (reader.records, reader.refused) == (8, 3)
    with pytest.raises(RaypipeError, match="3 of 8 records were refused"):
        reader.check()


def test_a_damaged_file_ends_only_itself(tmp_path: Path) -> None:
    dice = random.Random(7)
    letters = "".join(f">r{number}\n{''.join(dice.choices('ACGU', k=80))}\n" for number in range(5000))
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(letters.encode())[:-20_000])
    (tmp_path / "good.fa").write_text(">last\nACGU\n")
    reader, _ = reader_of([str(tmp_path / "cut.fa.gz"), str(tmp_path / "good.fa")])
    written = run(reader, lambda sequences: [("", None) for _ in sequences], budget=10_000)
    lines = written.splitlines()[1:]
    assert len(lines) > 1000
    assert [line.split("\t")[0] for line in lines] == [f"r{number}" for number in range(len(lines) - 1)] + ["last"]
    with pytest.raises(RaypipeError, match=r"cut\.fa\.gz: damaged or cut short"):
        reader.check()


def test_what_cannot_be_computed_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text("".join(f">r{place}\n{'A' * (place + 1)}\n" for place in range(30)))
    reader, said = reader_of([str(tmp_path / "in.fa")])
    written = run(reader, lambda sequences: [(len(s), "too odd" if len(s) % 10 == 7 else None) for s in sequences])
    assert written.splitlines() == [
        "id\tresult",
        *(f"r{place}\t{'A' * (place + 1)}\t{place + 1}" for place in range(30) if place % 10 != 6),
    ]
    assert said == [f"{tmp_path}/in.fa, line {2 * place + 1}, r{place}: too odd" for place in (6, 16, 26)]
    with pytest.raises(RaypipeError, match="3 of 30 records were refused"):
        reader.check()


def test_truncated_records_are_what_was_read() -> None:
    reader, _ = reader_of(["ACGUACGU", "ACGU"], context=5, on_long="truncate")
    assert [query.sequence for query in reader] == ["ACGUA", "ACGU"]
    assert reader.cut == 1
    windowed, _ = reader_of(["ACGUACGU"], context=5)
    assert [query.sequence for query in windowed] == ["ACGUACGU"]


def test_a_table_without_rows_has_its_header(tmp_path: Path) -> None:
    (tmp_path / "bad.fa").write_text(">x\nEFG\n")
    (tmp_path / "empty.fa").write_text("")
    assert run(reader_of([str(tmp_path / "bad.fa")])[0], lambda sequences: []) == "id\tresult\n"


def test_without_an_answer_an_unread_input_is_an_error(tmp_path: Path) -> None:
    """Raised while the output is open, so that an earlier file stays."""
    (tmp_path / "bad.fa").write_text(">x\nEFG\n")
    (tmp_path / "empty.fa").write_text("")
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(b">x\nACGU\n")[:-9])
    stream = io.StringIO()
    for name in ("empty.fa", "cut.fa.gz"):
        for others in ([], [str(tmp_path / "bad.fa")]):
            reader, _ = reader_of([str(tmp_path / name), *others])
            with pytest.raises(RaypipeError, match=r"empty|damaged or cut short"):
                answer(reader, reader, lambda sequences: [], FORM, stream, cost=lambda length: length, budget=9)
    assert stream.getvalue() == ""
