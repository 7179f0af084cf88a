"""Questions cut to fit a server, and when it is asked again."""

from __future__ import annotations

import email.utils
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.client.calls import PART, Limits, embed_job, search_job, vectors_job
from raypipe.client.lines import _asked_for
from raypipe.client.replies import METADATA, Reply
from raypipe.searching import Question

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=60)
MAYBE = st.none() | st.integers(1, 100)


@given(SIZES, MAYBE, MAYBE, MAYBE, MAYBE, st.integers(1, 7))
def test_parts_are_all_in_order_and_fit(
    sizes: list[int], queries: int | None, hits: int | None, nucleotides: int | None, body: int | None, k: int
) -> None:
    parts = list(Limits(queries, hits, nucleotides, body).parts(sizes, sizes, k))
    assert [place for start, stop in parts for place in range(start, stop)] == list(range(len(sizes)))
    for start, stop in parts:
        number, total = stop - start, sum(sizes[start:stop])
        assert number <= PART
        if number > 1:  # one alone is refused by the server, if at all
            assert number <= (queries or number)
            assert number * k <= (hits or number * k)
            assert total <= (nucleotides or total)
            assert total <= (body or total)
    assert len(list(Limits().parts(sizes, sizes, k))) == 1


def test_limits_are_what_the_server_says() -> None:
    told = {"limits": {"max_queries": 5, "max_hits": 7, "max_nucleotides": 9, "max_body_mib": 1, "max_k": 3}}
    assert Limits.of(told) == Limits(5, 7, 9, 0.9 * 2**20)
    assert Limits.of({}) == Limits()


def test_queries_keep_their_names_in_every_part() -> None:
    job = embed_job(["A", "C", "G", "U", "A"], Limits(queries=2))
    sent = [json.loads(call.body)["sequences"] for call in job.calls]
    assert sent == [{"query_1": "A", "query_2": "C"}, {"query_3": "G", "query_4": "U"}, {"query_5": "A"}]
    assert job.queries == 5


def test_a_body_says_no_more_than_was_asked() -> None:
    (call,) = search_job(Question(ids=["a"], k=3, itself=False), Limits(), lambda _: np.empty(0)).calls
    assert json.loads(call.body) == {"ids": ["a"], "names": ["a"], "k": 3, "itself": False}
    (call,) = vectors_job(None, [np.int64(3), 4], Limits()).calls  # type: ignore[list-item]
    assert json.loads(call.body) == {"seq_ids": [3, 4]}


def test_vectors_are_sent_as_arrow() -> None:
    vectors = np.arange(6, dtype=np.float64).reshape(2, 3)
    question = Question(vectors=vectors, names=["x", "x"], k=4, where="length > 3", exact=True)
    (call,) = search_job(question, Limits(), lambda _: np.empty(0)).calls
    with pa.ipc.open_stream(call.body) as stream:
        table = stream.read_all()
    assert table["vector"].type == pa.list_(pa.float32(), 3)
    assert table["vector"].to_pylist() == vectors.tolist()
    assert table["query"].to_pylist() == ["x", "x"]
    assert json.loads(table.schema.metadata[METADATA]) == {"k": 4, "where": "length > 3", "exact": True}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        (email.utils.formatdate(1_000_007, usegmt=True), 7),
        (email.utils.formatdate(999_000, usegmt=True), 0),
        ("soon", None),
    ],
)
def test_when_a_server_wants_to_be_asked_again(text: str, seconds: float | None) -> None:
    assert _asked_for(Reply(503, {"retry-after": text}, b"", ""), now=lambda: 1_000_000) == seconds
