"""A search before it is done."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raypipe.errors import RaypipeError, UsageError
from raypipe.results import Result
from raypipe.searching import AsyncSearch, Question, Search


class Asked:
    """Answers with the number of the question, slowly; the first `failing` times not at all."""

    def __init__(self, failing: int = 0) -> None:
        self.questions: list[Question] = []
        self._failing = failing

    def __call__(self, question: Question) -> Result:
        self.questions.append(question)
        time.sleep(0.01)
        if len(self.questions) <= self._failing:
            raise RaypipeError("not now")
        return Result(pa.table({"n": [len(self.questions)]}), {"k": question.k})


def test_it_is_done_once_and_late() -> None:
    asked = Asked()
    search = Search(asked, Question("ACGU"))
    assert asked.questions == []
    assert "not asked yet" in repr(search)
    assert (len(search), search.to_pylist(), list(search)) == (1, [{"n": 1}], [{"n": 1}])
    assert (search.how, search.truncated) == ({"k": 10}, False)
    assert len(asked.questions) == 1
    assert "1 rows" in repr(search)


def test_many_threads_ask_once() -> None:
    asked = Asked()
    search = Search(asked, Question("ACGU"))
    threads = [threading.Thread(target=search.to_arrow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked.questions) == 1


def test_after_an_error_it_can_be_asked_again() -> None:
    search = Search(Asked(failing=1), Question("ACGU"))
    with pytest.raises(RaypipeError, match="not now"):
        len(search)
    assert search.to_pylist() == [{"n": 2}]


def test_every_link_of_a_chain_is_a_search_of_its_own() -> None:
    asked = Asked()
    first = Search(asked, Question(ids=["a"]))
    last = first.where("x = 1 -- so").where("y = 2").limit(3).select(["id"]).min_score(0.5).exact().recall(0.9)
    assert len(last) == 1
    (question,) = asked.questions
    assert question.where == "(x = 1 -- so\n) AND (y = 2\n)"
    assert (question.k, question.columns, question.min_score) == (3, ["id"], 0.5)
    assert (question.exact, question.recall) == (True, 0.9)
    assert (first.question.where, first.question.k, first.question.exact) == (None, 10, False)
    with pytest.raises(UsageError, match="k is 0"):
        first.limit(0)


def test_what_is_asked_is_what_was_given_then() -> None:
    ids, vectors = ["a", "b"], np.ones((2, 3), np.float32)
    by_id, by_vector = Question(ids=ids), Question(vectors=vectors)
    ids.append("c")
    vectors[:] = 0
    assert by_id.ids == ["a", "b"]
    assert (np.asarray(by_vector.vectors) == 1).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sequences": 5}, "sequences: give text or a list of texts, not int"),
        ({"sequences": ["ACGU", None]}, "query_2: a sequence is text, not NoneType"),
        ({"ids": [5]}, "ids: 5 is no text"),
        ({"ids": ["a"], "names": [5]}, "names: 5 is no text"),
        ({"ids": ["a"], "columns": [5]}, "columns: 5 is no text"),
        ({"ids": ["a"], "where": 5}, "where is 5"),
        ({"ids": ["a"], "min_score": "x"}, "min_score is 'x'"),
        ({"ids": ["a"], "min_score": float("nan")}, "min_score is nan"),
        ({"ids": ["a"], "recall": 2}, "recall is 2; give a share"),
        ({"vectors": [[1, 2], [3]]}, "all of the same length"),
        ({"vectors": [["x"]]}, "rows of numbers"),
    ],
)
def test_what_is_of_another_type_is_refused_before_it_is_asked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        Question(**wrong)


def test_parts() -> None:
    names = Question({"x": "A", "y": "C", "z": "G"}, k=2).part(1, 3)
    assert (names.sequences, names.names, names.k) == (["C", "G"], ["y", "z"], 2)
    vectors = Question(vectors=np.eye(3)).part(2, 3)
    assert vectors.names == ["query_3"]
    assert np.asarray(vectors.vectors).tolist() == [[0, 0, 1]]


def test_awaited_each_time() -> None:
    asked = Asked()

    async def run(question: Question) -> Result:
        return asked(question)

    async def ask() -> None:
        search = AsyncSearch(run, Question("ACGU"))
        assert (await search.limit(2)).how == {"k": 2}
        assert (await search).to_pylist() == [{"n": 2}]

    asyncio.run(ask())
