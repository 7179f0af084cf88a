"""A search before it is done: what is asked, chained by calls, and answered once.

atlas.search("GGUC...").where("rna_type = 'tRNA'").limit(5).select(["id", "score"])
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.errors import UsageError
from raypipe.queries import Queries, labelled, labels, texts
from raypipe.results import Answers, Result


@dataclass(frozen=True, eq=False)
class Question:
    """What an atlas is searched for; see `raypipe.searchable.Searchable.search`.

    Attributes:
        itself: whether a query by id may find itself.
        all_annotations, expand_records: rows and lists of hits; see there.
        progress: whether a bar on standard error tells how far it is.

    Raises:
        UsageError: not exactly one of sequences, ids and vectors, no query, names that do not fit, k below 1, or
            something else that is not of its type.
    """

    sequences: Queries | None = None
    ids: Sequence[str] | None = None
    vectors: Any = None
    names: Sequence[str] | None = None
    k: int = 10
    where: str | None = None
    columns: Sequence[str] | None = None
    min_score: float | None = None
    exact: bool = False
    recall: float | None = None
    partial: bool = False
    itself: bool = True
    all_annotations: bool = False
    expand_records: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.sequences, self.ids, self.vectors)) != 1:
            raise UsageError("give exactly one of sequences, ids and vectors")
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
            raise UsageError(f"k is {self.k}; ask for at least one hit, in a whole number")
        if not self.itself and self.ids is None:
            raise UsageError("itself=False: only queries by ids are in the atlas, so that they can be left out")
        if self.where is not None and not isinstance(self.where, str):
            raise UsageError(f"where is {self.where!r}; give a condition in SQL as text")
        for name, number in (("min_score", self.min_score), ("recall", self.recall)):
            if number is not None and not (isinstance(number, int | float | np.number) and math.isfinite(number)):
                raise UsageError(f"{name} is {number!r}; give a number")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise UsageError(f"recall is {self.recall}; give a share above 0, up to 1")
        if isinstance(self.columns, str):
            raise UsageError(f"columns is one text; give a list: columns=[{self.columns!r}]")
        # Copied, as they may be changed before they are asked for.
        if self.sequences is not None:
            names, listed = labelled(self.sequences, self.names)
            self._set("sequences", listed)
            self._set("names", names)
        elif self.ids is not None:
            listed = texts(self.ids, "ids")
            self._set("ids", listed)
            self._set("names", labels(len(listed), self.names) if self.names is not None else listed)
        else:
            try:
                queries = np.array(self.vectors, dtype=np.float32, ndmin=2)
            except (TypeError, ValueError) as error:
                raise UsageError("vectors: give rows of numbers, all of the same length") from error
            if queries.ndim != 2:
                raise UsageError(f"vectors of shape {queries.shape}: give one row of D values for each query")
            self._set("vectors", queries)
            self._set("names", labels(len(queries), self.names))
        if not self.names:
            raise UsageError("no query; give a sequence, a FASTA file or --ids")
        if self.columns is not None:
            self._set("columns", texts(self.columns, "columns"))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.names or ())

    def part(self, start: int, stop: int) -> Question:
        """The same of some queries only."""
        kinds = {name: getattr(self, name) for name in ("sequences", "ids", "vectors", "names")}
        return replace(self, **{name: value[start:stop] for name, value in kinds.items() if value is not None})


Answer = TypeVar("Answer")


class Chain(Generic[Answer]):
    """A search that can be narrowed: every call gives a new one, this one stays what it is."""

    def __init__(self, run: Callable[[Question], Answer], question: Question):
        self._run = run
        self.question = question

    def _with(self, **changes: Any) -> Self:
        return type(self)(self._run, replace(self.question, **changes))

    def where(self, condition: str) -> Self:
        """Hits must meet this SQL condition, and those given before."""
        before = self.question.where
        # Each on lines of its own, so that a comment in one swallows nothing.
        return self._with(where=condition if before is None else f"({before}\n) AND ({condition}\n)")

    def limit(self, k: int) -> Self:
        """So many hits of each query.

        Raises:
            UsageError: less than one.
        """
        return self._with(k=k)

    def select(self, columns: Sequence[str]) -> Self:
        """These columns, in this order."""
        return self._with(columns=columns)

    def min_score(self, score: float) -> Self:
        """Without hits that score less."""
        return self._with(min_score=score)

    def exact(self) -> Self:
        """By comparing with every stored vector."""
        return self._with(exact=True)

    def recall(self, recall: float) -> Self:
        """As hard as was measured to reach this recall@10."""
        return self._with(recall=recall)


class Search(Chain[Result], Answers):
    """A search that is done once, when an answer is first asked for: its length, its rows, `how`, `to_arrow`, ..."""

    def __init__(self, run: Callable[[Question], Result], question: Question):
        super().__init__(run, question)
        self._lock = threading.Lock()
        self._found: Result | None = None

    def result(self) -> Result:
        """The answer.

        Raises:
            RaypipeError: there is none, see `raypipe.searchable.Searchable.search`; asked again it is searched again.
        """
        with self._lock:
            if self._found is None:
                self._found = self._run(self.question)
            return self._found

    def to_arrow(self) -> pa.Table:
        return self.result().to_arrow()

    @property
    def how(self) -> dict[str, Any] | None:
        return self.result().how

    @property
    def truncated(self) -> bool:
        return self.result().truncated

    def _vectors(self) -> np.ndarray:
        return self.result()._vectors()

    def __repr__(self) -> str:
        state = "not asked yet" if self._found is None else repr(self._found)
        return f"Search({len(self.question)} queries, k={self.question.k}: {state})"


class AsyncSearch(Chain[Coroutine[Any, Any, Result]]):
    """A search that is done where it is awaited, which gives a `Result`."""

    def __await__(self) -> Generator[Any, None, Result]:
        return self._run(self.question).__await__()
