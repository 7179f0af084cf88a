"""How well scores find what belongs together: ranks of relevant rows, and the measures made of them.

A question (`Question`) says of every query which rows count. Rows that share its `left_out` label, the query itself
among them, do not count at all: neither as right nor as wrong. Of those that count, rows that share its `group` label
are relevant. Families leaving clusters out: group = family, left_out = cluster. Clans leaving the family out:
group = clan, left_out = family.

Of a query with R relevant rows at ranks r_1 < r_2 < ... among the rows that count, from 1:

    top-1               r_1 = 1
    any in 10           r_1 <= 10
    average precision   (1 / R) * sum over i of i / r_i         over the whole ranking, not interpolated

A relevant row that a search tool does not list is never found: it adds 0 to the sum, and still counts in R. Equal
scores rank by row number, so whoever orders the rows must do it by something that knows nothing of the labels.

Shapes: n rows, Q queries, R relevant rows of one query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

NO_GROUP = -1
FIRST = 10
_BLOCK_BYTES = 64 << 20


class Question:
    """Which rows are relevant to a row, and which do not count.

    Args:
        group: (n,) int; NO_GROUP where a row belongs to none.
        left_out: (n,) int, never negative.
    """

    def __init__(self, group: np.ndarray, left_out: np.ndarray) -> None:
        self.group, self.left_out = np.asarray(group), np.asarray(left_out)
        self._grouped, self._alike = _Members(self.group), _Members(self.left_out)

    def relevant(self, row: int) -> np.ndarray:
        """Rows of the same group that count, ascending."""
        if self.group[row] == NO_GROUP:
            return np.empty(0, dtype=np.int64)
        members = self._grouped.of(self.group[row])
        return members[self.left_out[members] != self.left_out[row]]

    def uncounted(self, row: int) -> np.ndarray:
        """Rows that do not count, ascending; `row` is one of them."""
        return self._alike.of(self.left_out[row])

    def answerable(self) -> np.ndarray:
        """(n,) bool: rows with any relevant row."""
        # A group has something to find for all of its rows, or (where it has one left_out label) for none.
        lowest = np.full(self.group.max(initial=0) + 1, np.iinfo(np.int64).max)
        highest = np.full(len(lowest), -1)
        inside = self.group != NO_GROUP
        np.minimum.at(lowest, self.group[inside], self.left_out[inside])
        np.maximum.at(highest, self.group[inside], self.left_out[inside])
        return inside & (lowest != highest)[self.group]


class _Members:
    """Rows by label."""

    def __init__(self, labels: np.ndarray) -> None:
        self._order = np.argsort(labels, kind="stable")
        self._sorted = labels[self._order]

    def of(self, label: int) -> np.ndarray:
        """Rows with that label, ascending."""
        start, stop = np.searchsorted(self._sorted, [label, label + 1])
        return self._order[start:stop]


@dataclass(frozen=True)
class Found:
    """What was found for each query of one question.

    Attributes:
        queries: (Q,) rows.
        first: (Q,) rank of the first relevant row, inf where none is listed.
        precision: (Q,) average precision.
    """

    queries: np.ndarray
    first: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True)
class Measures:
    """Means over queries, from 0 to 1.

    Attributes:
        queries, groups: how many queries, of how many groups.
        top1, any10, mean_average_precision: means over the queries.
        top1_error: standard error of `top1`. Groups are what varies independently, not the queries inside them, so it
            is that of a ratio of sums over groups (Cochran 1977, eq. 6.9, for cluster samples).
        macro_top1, macro_any10, macro_mean_average_precision: means over groups of the means over their queries.
    """

    queries: int
    groups: int
    top1: float
    top1_error: float
    any10: float
    mean_average_precision: float
    macro_top1: float
    macro_any10: float
    macro_mean_average_precision: float


def rank_all(
    score: Callable[[np.ndarray], np.ndarray], questions: Mapping[str, tuple[Question, np.ndarray]]
) -> dict[str, Found]:
    """Rank every row for every query.

    Args:
        score: from rows (m,) to their scores with all rows, (m, n) float, higher is nearer; asked in blocks of some
            64 MiB.
        questions: by name the question and its queries, ascending rows that have an answer.

    Raises:
        ValueError: a score is no number.
    """
    rows = np.unique(np.concatenate([queries for _, queries in questions.values()] or [np.empty(0, np.int64)]))
    first = {name: np.empty(len(queries)) for name, (_, queries) in questions.items()}
    precision = {name: np.empty(len(queries)) for name, (_, queries) in questions.items()}
    for row, scores in _lines(score, rows):
        asked = {}
        for name, (question, queries) in questions.items():
            place = int(np.searchsorted(queries, row))
            if place < len(queries) and queries[place] == row:
                asked[name] = place, question.relevant(row), question.uncounted(row)
        floor = min(scores[relevant].min() for _, relevant, _ in asked.values())
        # Whatever lies below the last relevant row needs no order.
        rivals = np.sort(scores[scores >= floor])
        for name, (place, relevant, uncounted) in asked.items():
            ranks = _ranks(scores, rivals, relevant, uncounted)
            first[name][place] = ranks[0]
            precision[name][place] = average_precision(ranks, len(relevant))
    return {name: Found(queries, first[name], precision[name]) for name, (_, queries) in questions.items()}


def rank_listed(hits: Mapping[int, np.ndarray], question: Question, queries: np.ndarray) -> Found:
    """The same for a tool that lists some rows for each query.

    Args:
        hits: by query the rows that it found, best first, each once; a query may be missing.
        question: which rows count.
        queries: (Q,) rows that have an answer.
    """
    first, precision = np.full(len(queries), np.inf), np.zeros(len(queries))
    for place, row in enumerate(queries.tolist()):
        listed = hits.get(row)
        if listed is None:
            continue
        counted = listed[question.left_out[listed] != question.left_out[row]]
        ranks = 1 + np.flatnonzero(question.group[counted] == question.group[row])
        if len(ranks):
            first[place] = ranks[0]
            precision[place] = average_precision(ranks, len(question.relevant(row)))
    return Found(queries, first, precision)


def average_precision(ranks: np.ndarray, relevant: int) -> float:
    """See the head of this file.

    Args:
        ranks: ascending, of the relevant rows that were found.
        relevant: R, how many there are to find.
    """
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / relevant)


def measure(found: Found, groups: np.ndarray) -> Measures:
    """Means of what was found.

    Args:
        found: for at least one query.
        groups: (Q,) what the queries belong to: their family, or their clan.
    """
    names, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)

    def means(values: np.ndarray) -> tuple[float, float, np.ndarray]:
        sums = np.bincount(members, values)
        return float(values.mean()), float((sums / sizes).mean()), sums

    top1, macro_top1, sums = means((found.first <= 1).astype(float))
    any10, macro_any10, _ = means((found.first <= FIRST).astype(float))
    precision, macro_precision, _ = means(found.precision)
    spread = ((sums - sizes * top1) ** 2).sum() * len(names) / max(len(names) - 1, 1)
    return Measures(
        queries=len(found.queries),
        groups=len(names),
        top1=top1,
        # One group says nothing of how groups differ.
        top1_error=float(np.sqrt(spread) / len(found.queries)) if len(names) > 1 else float("nan"),
        any10=any10,
        mean_average_precision=precision,
        macro_top1=macro_top1,
        macro_any10=macro_any10,
        macro_mean_average_precision=macro_precision,
    )


def ranking(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`targets`, each once, by (best score descending, row ascending)."""
    order = np.lexsort((targets, -scores))
    _, first = np.unique(targets[order], return_index=True)
    return targets[order][np.sort(first)]


def _lines(score: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each row with its (n,) scores."""
    start, height = 0, 1
    while start < len(rows):
        block = rows[start : start + height]
        scores = score(block)
        if not np.isfinite(scores).all():
            raise ValueError("a score is no number")
        yield from zip(block.tolist(), scores, strict=True)
        start += height
        height = max(1, _BLOCK_BYTES // max(1, scores[0].nbytes))


def _ranks(scores: np.ndarray, rivals: np.ndarray, relevant: np.ndarray, uncounted: np.ndarray) -> np.ndarray:
    """Ranks of the relevant rows among those that count, ascending.

    Args:
        scores: (n,).
        rivals: scores not below that of any relevant row, ascending.
        relevant, uncounted: rows, ascending.
    """
    wanted = scores[relevant]
    right = np.searchsorted(rivals, wanted, "right")
    ahead = len(rivals) - right
    tied = np.flatnonzero(right - np.searchsorted(rivals, wanted, "left") > 1)
    for value in np.unique(wanted[tied]):
        same = np.flatnonzero(wanted == value)
        ahead[same] += np.searchsorted(np.flatnonzero(scores == value), relevant[same])
    # Those ahead that do not count: both in one order, the ones counted off before the others.
    both = np.concatenate([relevant, uncounted])
    order = np.lexsort((both, -scores[both]))
    passed = np.empty(len(both), dtype=np.int64)
    passed[order] = np.cumsum(order >= len(relevant))
    return np.sort(1 + ahead - passed[: len(relevant)])


def questions_of(family: np.ndarray, clan: np.ndarray, cluster: np.ndarray) -> dict[str, Question]:
    """Families leaving clusters out, and clans leaving the family out.

    Args:
        family, cluster: (n,), never negative. clan: (n,), NO_GROUP where there is none.
    """
    return {"family": Question(family, cluster), "clan": Question(clan, family)}
