"""From inputs to text without a store: records are read, computed and written in chunks, in the order of the input.

However many sequences come, only one chunk of them is in memory. What cannot be used is said at once, with its place
and the reason, and counted; the rest is computed all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from index import places
from index.store import OnLong
from raypipe.cleaning import clean, judge
from raypipe.errors import InputError, RaypipeError
from raypipe.sources import TableColumns, read_records
from raypipe.text_forms import Form
from raypipe.unpacking import shown

Answer = tuple[Any, str | None]
"""What was computed of one sequence, and why there is nothing."""
# The first answers shall come soon: the first chunk is this part of a whole one, and each has twice the one before.
FIRST_CHUNK = 1 / 8


class Query(NamedTuple):
    """One record that can be used: where it stands, its id, its canonical letters."""

    place: str
    id: str
    sequence: str


class Reader:
    """The records of several inputs, one after another: good ones are given on, bad ones said and counted.

    Args:
        inputs: files, "-" for standard input, or sequences, which are called sequence_1, sequence_2, ...
        context: nucleotides that the model reads at a time.
        on_long: "truncate" gives on the first `context` letters of longer ones; the rest is the model's business.
        columns: names of the id and sequence columns of tables.
        say: takes one line for the person who waits.

    Attributes:
        records: read so far.
        refused: of these.
        cut: of these, truncated.
        failures: why inputs could not be read to their end.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        context: int,
        on_long: OnLong = "window",
        columns: TableColumns | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._inputs = inputs
        self._context = context
        self._on_long = on_long
        self._columns = columns
        self._say = say
        self.records = self.refused = self.cut = 0
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Query]:
        literals = 0
        for text in self._inputs:
            if text == "-" or places.is_uri(text) or os.path.exists(text):
                yield from self._file(text)
            else:
                literals += 1
                self.records += 1
                yield from self._fit("command line", f"sequence_{literals}", *clean(text.strip()))

    def refuse(self, place: str, id_: str | None, reason: str) -> None:
        """Say and count a record that cannot be used."""
        self.refused += 1
        self._say(f"{place}, {id_ or 'no id'}: {reason}")

    def check(self) -> None:
        """Raise what is to be said at the end.

        Raises:
            RaypipeError: an input could not be read to its end, or a record was refused.
        """
        problems = list(self.failures)
        if self.refused:
            problems.append(f"{self.refused:,} of {self.records:,} records were refused, for the reasons above")
        if problems:
            raise RaypipeError("; ".join(problems))

    def _file(self, path: str) -> Iterator[Query]:
        try:
            for record in read_records(path, self._columns):
                self.records += 1
                yield from self._fit(f"{shown(path)}, line {record.line}", record.id, *judge(record))
        except InputError as error:
            self.failures.append(str(error))

    def _fit(self, place: str, id_: str | None, canonical: bytes, reason: str | None) -> Iterator[Query]:
        if reason is not None:
            self.refuse(place, id_, reason)
            return
        if self._on_long == "truncate" and len(canonical) > self._context:
            self.cut += 1
            canonical = canonical[: self._context]
        yield Query(place, id_ or "", canonical.decode("ascii"))


def chunks(queries: Iterable[Query], cost: Callable[[int], int], budget: int) -> Iterator[list[Query]]:
    """Consecutive queries that cost `budget` at most together, `cost` of their lengths; at least one in each chunk."""
    limit = budget * FIRST_CHUNK
    chunk: list[Query] = []
    spent = 0
    for query in queries:
        price = cost(len(query.sequence))
        if chunk and spent + price > limit:
            yield chunk
            chunk, spent, limit = [], 0, min(budget, 2 * limit)
        chunk.append(query)
        spent += price
    if chunk:
        yield chunk


def answer(
    reader: Reader,
    queries: Iterable[Query],
    compute: Callable[[list[str]], Iterable[Answer]],
    form: Form,
    stream: TextIO,
    *,
    cost: Callable[[int], int],
    budget: int,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Write what `compute` makes of the queries, chunk by chunk.

    Args:
        reader: counts what is refused.
        queries: `reader`, or what was taken from it.
        compute: sequences to answers, one for each.
        form: of the text.
        stream: where it goes; flushed after every chunk.
        cost: tokens that the model reads for a sequence of so many nucleotides.
        budget: tokens of one chunk.
        after: called after every chunk.

    Raises:
        RaypipeError: there is no answer, and an input could not be read: what comes out is no answer to it.
    """
    waiting: str | None = form.header
    answered = False
    for chunk in chunks(queries, cost, budget):
        answers = compute([query.sequence for query in chunk])
        for query, (result, reason) in zip(chunk, answers, strict=True):
            if reason is not None:
                reader.refuse(query.place, query.id, reason)
                continue
            text = form.text(query.id, query.sequence, result)
            stream.write(f"{waiting or ''}{text}")
            waiting, answered = None, True
        stream.flush()
        after()
    if not answered and reader.failures:
        reader.check()
    # A table without rows has its header.
    if waiting:
        stream.write(waiting)
        stream.flush()
