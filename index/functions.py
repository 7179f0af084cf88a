"""search, neighbors and embed as functions of DuckDB, answered by whoever is injected.

    FROM search('GGUC...', k := 10, filter := 'taxid = 9606')     rank, seq_id, id, score, length, n_records
    FROM neighbors('rna1', k := 10)                               the same for a record's sequence, without itself
    FROM queries q, LATERAL (FROM search(q.seq, k := 5))          one batched search for each chunk of 2048 queries
    SELECT embed(sequence) FROM sequences                         FLOAT[]

NULL as query gives no rows, NULL as sequence no vector. DuckDB has no table functions in Python, so these are macros
over scalar functions whose lists of hits they unnest.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from index import duck
from index.errors import QuestionError, StoreError

NAMES = ("search", "neighbors", "embed")
HIT = pa.struct(
    [
        ("rank", pa.int32()),
        ("seq_id", pa.int64()),
        ("id", pa.string()),
        ("score", pa.float32()),
        ("length", pa.int32()),
        ("n_records", pa.int32()),
    ]
)
_HITS = "STRUCT(rank INTEGER, seq_id BIGINT, id VARCHAR, score FLOAT, length INTEGER, n_records INTEGER)[]"
_NO_HIT = -1
_numbers = itertools.count(1)
_called = threading.local()
_all: dict[int, Functions] = {}


class Asker(Protocol):
    """Who answers the functions; called from DuckDB's threads, several at a time."""

    def search(self, sequences: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest sequences: seq_ids (Q, k) int64, -1 where there are fewer, and scores (Q, k) float32."""
        ...

    def neighbors(self, ids: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for the sequences of records, which are left out themselves."""
        ...

    def embed(self, sequences: list[str]) -> np.ndarray:
        """(N, D) float32 vectors."""
        ...

    def catalog(self, seq_ids: np.ndarray) -> pa.Table:
        """Of found sequences (n,), distinct, in their order: seq_id, id (of the first record), length, n_records."""
        ...


class Stopped(QuestionError):
    """Somebody stopped the statement."""


class Functions:
    """The functions of one connection, under names that no other registration of this process has.

    DuckDB crashes when it calls a function whose connection object is gone. So this holds the connection, until
    `remove`, or until the process ends: before that the functions have to go, for DuckDB counts what is left, aloud.

    Attributes:
        asker: who answers.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, asker: Asker):
        """Register the scalar functions; `make_macros` gives them their names."""
        self.asker = asker
        self._connection = connection
        self._stopped = threading.Event()
        self._errors: deque[Exception] = deque(maxlen=16)
        self._number = next(_numbers)
        self._schema = ""
        for name, answer in (("search", self._search), ("neighbors", self._neighbors)):
            self._create(name, answer, ["VARCHAR", "BIGINT", "VARCHAR"], _HITS)
        self._create("embed", self._embed, ["VARCHAR"], "FLOAT[]")
        _all[self._number] = self

    def _create(self, name: str, answer: Callable[..., pa.Array], takes: list[str], gives: str) -> None:
        # Without side effects, as DuckDB calls them, a call with constants would be made twice.
        options: dict[str, Any] = {"type": "arrow", "null_handling": "special", "side_effects": True}
        self._connection.create_function(self.inner(name), answer, takes, gives, **options)  # type: ignore[arg-type]

    def inner(self, name: str) -> str:
        """What the scalar function behind the macro `name` is called."""
        return f"raypipe_{name}_{self._number}"

    def make_macros(self, schema: str, comment: str = "") -> None:
        """Make the macros `search`, `neighbors` and `embed` in `schema`, or put them in the place of those there.

        Args:
            schema: as SQL, such as "memory.main".
            comment: what DuckDB shows of them.
        """
        self._schema = schema
        execute = self._connection.execute
        for name, asked in (("search", "q"), ("neighbors", "id")):
            execute(
                f"CREATE OR REPLACE MACRO {schema}.{name}({asked}, k := 10, filter := NULL) AS TABLE "
                f"SELECT unnest({self.inner(name)}({asked}::VARCHAR, k::BIGINT, filter::VARCHAR), recursive := true)"
            )
            execute(f"COMMENT ON MACRO TABLE {schema}.{name} IS {duck.literal(comment)}")
        execute(f"CREATE OR REPLACE MACRO {schema}.embed(seq) AS {self.inner('embed')}(seq::VARCHAR)")
        execute(f"COMMENT ON MACRO {schema}.embed IS {duck.literal(comment)}")

    def replace_others(self) -> None:
        """Take back what was registered before in the same connection and schema, and is behind no macro any more."""
        for other in list(_all.values()):
            if other is not self and other._connection is self._connection and other._schema == self._schema:
                other.remove()

    def remove(self) -> None:
        """Take the scalar functions back; what is asked of them from now on is an error of DuckDB's."""
        if _all.pop(self._number, None) is not None:
            for name in NAMES:
                with suppress(duckdb.Error):  # the connection is closed, and they went with it
                    self._connection.remove_function(self.inner(name))

    def begin(self) -> None:
        """A new statement: what was stopped before does not matter any more."""
        self._stopped.clear()

    def stop(self) -> None:
        """Let calls under way fail at the next piece of work, from any thread: DuckDB does not stop what is no SQL."""
        self._stopped.set()

    def check(self) -> None:
        """
        Raises:
            Stopped: `stop` was called.
        """
        if self._stopped.is_set():
            raise Stopped("stopped")

    def cause(self, error: duckdb.Error) -> Exception | None:
        """What the asker raised, if that is what `error` tells of; it is told once."""
        text = str(error)
        for raised in reversed(list(self._errors)):  # a copy: other threads add to them
            if str(raised) and f": {type(raised).__name__}: {raised}" in text:
                with suppress(ValueError):  # another thread was told of it, by the same words
                    self._errors.remove(raised)
                return raised
        return None

    def _search(self, texts: pa.ChunkedArray, ks: pa.ChunkedArray, filters: pa.ChunkedArray) -> pa.Array:
        return self._noting(lambda: self._hits(self.asker.search, texts, ks, filters))

    def _neighbors(self, ids: pa.ChunkedArray, ks: pa.ChunkedArray, filters: pa.ChunkedArray) -> pa.Array:
        return self._noting(lambda: self._hits(self.asker.neighbors, ids, ks, filters))

    def _embed(self, sequences: pa.ChunkedArray) -> pa.Array:
        return self._noting(lambda: self._vectors(sequences))

    def _noting(self, work: Callable[[], pa.Array]) -> pa.Array:
        _called.check = self.check
        try:
            self.check()
            return work()
        except Exception as error:
            self._errors.append(error)
            raise
        finally:
            del _called.check

    def _hits(
        self,
        ask: Callable[[list[str], int, str | None], tuple[np.ndarray, np.ndarray]],
        texts: pa.ChunkedArray,
        ks: pa.ChunkedArray,
        filters: pa.ChunkedArray,
    ) -> pa.Array:
        """Lists of HIT, one for each row, NULL where the query is."""
        columns = (texts.to_pylist(), ks.to_pylist(), filters.to_pylist())
        # Queries that occur twice are asked once, those of one k and filter together.
        groups: dict[tuple[int, str | None], dict[str, list[int]]] = {}
        for row, (text, k, where) in enumerate(zip(*columns, strict=True)):
            if text is None:
                continue
            if k is None or k < 1:
                raise QuestionError(f"k is {'NULL' if k is None else k}; ask for at least one hit")
            groups.setdefault((k, where), {}).setdefault(text, []).append(row)
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        found = [nothing] * len(columns[0])
        for (k, where), asked in groups.items():
            self.check()
            seq_ids, scores = ask(list(asked), k, where)
            for rows, ids, values in zip(asked.values(), seq_ids, scores, strict=True):
                hit = ids != _NO_HIT
                for row in rows:
                    found[row] = ids[hit], values[hit]
        self.check()
        return self._lists(found, [text is None for text in columns[0]])

    def _lists(self, found: list[tuple[np.ndarray, np.ndarray]], missing: list[bool]) -> pa.Array:
        sizes = [len(ids) for ids, _ in found]
        ends = np.cumsum([0, *sizes])
        seq_ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(values for _, values in found)])
        distinct, places = np.unique(seq_ids, return_inverse=True)
        catalog = self.asker.catalog(distinct).take(pa.array(places)) if len(distinct) else None
        parts: dict[str, Any] = {
            "rank": pa.array(np.arange(len(seq_ids)) - np.repeat(ends[:-1], sizes) + 1, type=pa.int32()),
            "seq_id": pa.array(seq_ids),
            "score": pa.array(scores, type=pa.float32()),
        }
        for field in HIT:
            if field.name not in parts:
                column = pa.array([], field.type) if catalog is None else catalog[field.name].cast(field.type)
                parts[field.name] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        hits = pa.StructArray.from_arrays([parts[field.name] for field in HIT], fields=list(HIT))
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), hits, mask=pa.array(missing))

    def _vectors(self, sequences: pa.ChunkedArray) -> pa.Array:
        listed = sequences.to_pylist()
        distinct = list(dict.fromkeys(text for text in listed if text is not None))
        if not distinct:
            return pa.nulls(len(listed), pa.list_(pa.float32()))
        vectors = np.asarray(self.asker.embed(distinct), dtype=np.float32)
        self.check()
        rows = {text: row for row, text in enumerate(distinct)}
        values = np.concatenate([vectors[rows[text]] for text in listed if text is not None])
        lengths = [0 if text is None else vectors.shape[1] for text in listed]
        offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(values), mask=pa.array([text is None for text in listed]))


def check_stopped() -> None:
    """For askers, between pieces of their work.

    Raises:
        Stopped: the statement that asks was stopped.
    """
    check = getattr(_called, "check", None)
    if check is not None:
        check()


def named_in(sql: str) -> bool:
    """Whether `sql` may call one of the functions."""
    return bool(duck.occurring(NAMES, sql))


def said(error: Exception) -> StoreError:
    """What an asker raised, as an error of a store with the same words and code."""
    if isinstance(error, StoreError):
        return error
    wrapped = QuestionError(str(error) or type(error).__name__)
    wrapped.code = getattr(error, "code", None) or wrapped.code
    return wrapped


@atexit.register
def _remove_all() -> None:
    for functions in list(_all.values()):
        functions.remove()
