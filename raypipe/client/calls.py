"""What is sent to a server for a question, and how its answers are put together: the same with and without asyncio.

A long list of queries is sent in parts that fit the server's limits. Shapes: N of a list, D values of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.client.replies import ARROW, JSON, METADATA, Reply
from raypipe.errors import UsageError
from raypipe.queries import Queries, check_top_k, labelled, listed_ids
from raypipe.results import Result, Vectors, stacked
from raypipe.searching import Question

T = TypeVar("T")
# So many queries at a time at most, so that a bar moves; more in one request are no faster.
PART = 256
BODY_SHARE = 0.9
"""Of the largest body that a server takes: sizes are estimates."""


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        queries: it holds so many.
        read: makes something of the answer.
    """

    method: str
    path: str
    read: Callable[[Reply], Any]
    body: bytes = b""
    content_type: str = JSON
    accept: str = ARROW
    queries: int = 1


@dataclass(frozen=True)
class Job(Generic[T]):
    """Requests that may be sent side by side, and what their answers are together."""

    calls: Sequence[Call]
    join: Callable[[list[Any]], T]

    @property
    def queries(self) -> int:
        """In all of them."""
        return sum(call.queries for call in self.calls)


@dataclass(frozen=True)
class Limits:
    """Of one request to a server; None where it tells none."""

    queries: int | None = None
    hits: int | None = None
    nucleotides: int | None = None
    body: float | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Limits:
        """What `info` of a server says."""
        told = info.get("limits") or {}
        mib = told.get("max_body_mib")
        body = None if mib is None else BODY_SHARE * mib * 2**20
        return cls(told.get("max_queries"), told.get("max_hits"), told.get("max_nucleotides"), body)

    def parts(self, sizes: Sequence[int], letters: Sequence[int], k: int = 1) -> Iterator[tuple[int, int]]:
        """Consecutive queries that fit one request, as bounds; one that fits none is alone.

        Args:
            sizes: (N,) bytes that each takes in a body.
            letters: (N,) nucleotides of each.
            k: hits of each.
        """
        most = min(PART, self.queries or PART, max(1, (self.hits or PART * k) // k))
        start = size = length = 0
        for place, (more, longer) in enumerate(zip(sizes, letters, strict=True)):
            full = place - start >= most or (self.body is not None and size + more > self.body)
            full = full or (self.nucleotides is not None and length + longer > self.nucleotides)
            if full and place > start:
                yield start, place
                start, size, length = place, 0, 0
            size, length = size + more, length + longer
        yield start, len(sizes)


def search_job(question: Question, limits: Limits, vectors: Vectors) -> Job[Result]:
    """The hits of a question.

    Args:
        vectors: looks up those of hits, see `Result`.
    """
    parts = [question.part(*bounds) for bounds in limits.parts(*_sizes(question), k=int(question.k))]
    return Job([_search_call(part) for part in parts], lambda found: _joined(found, vectors))


def embed_job(sequences: Queries, limits: Limits) -> Job[np.ndarray]:
    """(N, D) float32 vectors of sequences."""
    return Job(_sequence_calls("/v1/embed", sequences, limits, Reply.vectors), np.concatenate)


def vectors_job(ids: Sequence[str] | None, seq_ids: Sequence[int] | None, limits: Limits) -> Job[np.ndarray]:
    """(N, D) float32 stored vectors."""
    if (ids is None) == (seq_ids is None):
        raise UsageError("give exactly one of ids and seq_ids")
    if ids is not None:
        return Job(_id_calls("/v1/vectors", ids, limits, Reply.vectors), np.concatenate)
    numbers = [int(number) for number in seq_ids or ()]
    if not numbers:
        raise UsageError("no sequence; give at least one seq_id")
    parts = limits.parts([20] * len(numbers), [0] * len(numbers))
    calls = [
        _post("/v1/vectors", {"seq_ids": numbers[start:stop]}, Reply.vectors, stop - start) for start, stop in parts
    ]
    return Job(calls, np.concatenate)


def get_job(ids: Sequence[str], limits: Limits) -> Job[Result]:
    """Records by their ids."""
    return Job(_id_calls("/v1/records", ids, limits, Reply.table), _rows)


def fill_mask_job(sequences: Queries, top_k: int, limits: Limits) -> Job[Result]:
    """Tokens for masks."""
    check_top_k(top_k)
    return Job(_sequence_calls("/v1/fill-mask", sequences, limits, Reply.table, top_k=top_k), _rows)


def predict_jobs(sequences: Queries, heads: Sequence[str], limits: Limits) -> dict[str, Job[Result]]:
    """What heads say of sequences: one job for each, as an Arrow stream is one table."""
    listed = [heads] if isinstance(heads, str) else list(heads)
    if not listed:
        raise UsageError("no head; give names, such as heads=['structure']")
    return {
        head: Job(_sequence_calls("/v1/predict", sequences, limits, Reply.table, heads=[head]), _rows)
        for head in listed
    }


def sql_job(query: str, params: Any) -> Job[Result]:
    """One SELECT."""
    if isinstance(params, Mapping):
        params = dict(params)
    elif params is not None:
        params = list(params)
    return Job([_post("/v1/sql", {"query": query, "params": params}, Reply.table)], _rows)


def info_job() -> Job[dict[str, Any]]:
    """What the atlas holds."""
    return Job([Call("GET", "/v1/info", Reply.json, accept=JSON)], lambda found: found[0])


def number_of(queries: Any) -> int:
    """How many there are, 2 where that is not known: by it the server's limits have to be known."""
    if queries is None or isinstance(queries, str):
        return 1
    return len(queries) if hasattr(queries, "__len__") else 2


def _search_call(part: Question) -> Call:
    settings = {
        "k": int(part.k),
        "where": part.where,
        "columns": part.columns,
        "min_score": part.min_score,
        "exact": part.exact,
        "recall": part.recall,
        "partial": part.partial,
        "all_annotations": part.all_annotations,
        "expand_records": part.expand_records,
    }
    settings = {name: value for name, value in settings.items() if value is not None and value is not False}
    if part.vectors is not None:
        flat = pa.array(np.ascontiguousarray(part.vectors, dtype=np.float32).reshape(-1))
        columns = {
            "vector": pa.FixedSizeListArray.from_arrays(flat, part.vectors.shape[1]),
            "query": pa.array(part.names, pa.string()),
        }
        table = pa.table(columns).replace_schema_metadata({METADATA: _json(settings)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = sink.getvalue().to_pybytes()
        return Call("POST", "/v1/search", Reply.table, body, ARROW, queries=len(part))
    if not part.itself:
        settings["itself"] = False
    kind = {"ids": part.ids} if part.ids is not None else {"sequences": part.sequences}
    return _post("/v1/search", {**kind, "names": part.names, **settings}, Reply.table, len(part))


def _sizes(question: Question) -> tuple[list[int], list[int]]:
    names = [len(name) + 10 for name in question.names or ()]
    if question.vectors is not None:
        row = 4 * question.vectors.shape[1]
        return [row + name for name in names], [0] * len(names)
    listed: Any = question.ids if question.ids is not None else question.sequences
    letters = [len(text) if question.ids is None else 0 for text in listed]
    return [len(text) + name for text, name in zip(listed, names, strict=True)], letters


def _sequence_calls(
    path: str, sequences: Queries, limits: Limits, read: Callable[[Reply], Any], **settings: Any
) -> list[Call]:
    names, listed = labelled(sequences)
    lengths = list(map(len, listed))
    parts = limits.parts([length + len(name) + 10 for length, name in zip(lengths, names, strict=True)], lengths)
    return [
        _post(
            path,
            {"sequences": dict(zip(names[start:stop], listed[start:stop], strict=True)), **settings},
            read,
            stop - start,
        )
        for start, stop in parts
    ]


def _id_calls(path: str, ids: Sequence[str], limits: Limits, read: Callable[[Reply], Any]) -> list[Call]:
    listed = listed_ids(ids)
    parts = limits.parts([len(name) + 10 for name in listed], [0] * len(listed))
    return [_post(path, {"ids": listed[start:stop]}, read, stop - start) for start, stop in parts]


def _post(path: str, body: Any, read: Callable[[Reply], Any], queries: int = 1) -> Call:
    return Call("POST", path, read, _json(body), queries=queries)


def _json(value: Any) -> bytes:
    def plain(other: Any) -> Any:
        if isinstance(other, np.generic | np.ndarray):
            return other.tolist()
        raise TypeError(type(other).__name__)

    try:
        return json.dumps(value, default=plain, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot be sent to a server as JSON ({error}); give text, numbers, lists or None") from error


def _joined(found: list[tuple[pa.Table, dict[str, Any]]], vectors: Vectors) -> Result:
    hows = [beside.get("how") or {} for _, beside in found]
    how = dict(hows[0])
    if len(hows) > 1:
        how["searched"] = list(dict.fromkeys(words for each in hows for words in each.get("searched", [])))
        versions = list(dict.fromkeys(each.get("version") for each in hows))
        if len(versions) > 1:  # a new index came while the parts were asked
            how["versions"] = versions
        if "missing" in how:
            how["missing"] = {name: why for each in hows for name, why in each.get("missing", {}).items()}
            how["missing_rows"] = max(each.get("missing_rows", 0) for each in hows)
    return Result(stacked([table for table, _ in found]), how, vectors=vectors)


def _rows(found: list[tuple[pa.Table, dict[str, Any]]]) -> Result:
    truncated = any(beside.get("truncated", False) for _, beside in found)
    return Result(stacked([table for table, _ in found]), truncated=truncated)
