"""What labels mean: which problem they pose, which classes there are, and labels as the loss takes them.

Legend: L nucleotides, C outputs of the head; "..." is () for sequences and (L,) for nucleotides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model.head_config import HeadConfig, Kind, Problem
from raypipe.errors import InputError
from raypipe.finetuning.labels import LabelError

IGNORE = -100
"""The label of what is not labelled, as in `model.losses`; regression has NaN."""

_PLAIN = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
# As a table writes 0 and 1 in a column with gaps; they may be values as well.
_DECIMAL = {"0.0": 0, "1.0": 1}
TRUTH = _PLAIN | _DECIMAL
MOST_CLASSES = 1000
_FEW = 20  # classes that a message names


@dataclass(frozen=True)
class Space:
    """The labels of one head.

    Attributes:
        task: what they speak of.
        problem: see `HeadConfig`.
        names: of the C outputs; of the classes for multiclass.
        truth: for binary and multilabel with 0 and 1, word -> 0 or 1; None where labels are lists of names.
    """

    task: Kind
    problem: Problem
    names: tuple[str, ...]
    truth: dict[str, int] | None = None

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.names)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """As `model.loss_terms` takes them: int64 (...) for multiclass, float32 (...) or (..., C) else.

        Raises:
            LabelError: another number of values than outputs, or a value that is none.
        """
        if self.task in ("contact", "structure"):
            return raw.astype(np.int32)
        axes = 1 if self.task == "token" else 0
        if self.problem == "multiclass":
            if raw.ndim > axes:
                raise LabelError(f"{raw.shape[-1]} labels where one class is expected")
            places = {name: place for place, name in enumerate(self.names)}
            return _mapped(as_texts(raw), lambda text: places.get(text, IGNORE), np.int64)
        if self.problem == "multilabel" and self.truth is None:
            return self._names(raw)
        many = self.num_labels > 1 or self.problem == "multilabel"
        wanted = f"{self.num_labels} values" if many else "one value"
        if raw.ndim != axes + many or (many and raw.shape[-1] != self.num_labels):
            raise LabelError(f"labels of the shape {raw.shape} where {wanted} are expected")
        if self.problem == "regression":
            return _numbers(raw)
        truth = self.truth or TRUTH
        return _mapped(as_texts(raw), lambda text: self._yes(text, truth), np.float32)

    def unknown(self, raw: np.ndarray) -> set[str]:
        """Classes of a row that the head does not know."""
        if self.problem not in ("multiclass", "multilabel") or self.truth is not None or raw.dtype.kind == "i":
            return set()
        return set(np.unique(as_texts(raw)).tolist()) - {"", *self.names}

    def _yes(self, text: str, truth: dict[str, int]) -> float:
        found = truth.get(text, truth.get(text.lower()))
        if found is None and text:
            raise LabelError(f"{text!r} where {' or '.join(truth)} is expected")
        return IGNORE if found is None else found

    def _names(self, raw: np.ndarray) -> np.ndarray:
        if raw.ndim > 1:
            raise LabelError("lists of names are for sequences; give nucleotides a column of 0 and 1 for each")
        chosen = set(np.atleast_1d(as_texts(raw)).tolist())
        return np.array([name in chosen for name in self.names], np.float32)


def settle(
    task: Kind,
    columns: Sequence[str],
    raws: Iterable[np.ndarray],
    taught: Iterable[np.ndarray],
    problem: Problem | None,
    positive: str | None = None,
) -> Space:
    """What a set of labels means.

    Args:
        task: what they speak of.
        columns: the label columns, which name outputs that are no classes.
        raws: of all rows; the problem shows in them.
        taught: of those that are trained on; the classes are theirs.
        problem: where the user says it.
        positive: which of two words is yes, where the user says it.

    Raises:
        InputError: nobody can say what the labels are, or there is nothing to tell apart.
    """
    if task in ("contact", "structure"):
        return Space(task, "binary", (task,))
    seen = _Seen.of(raws, 1 if task == "token" else 0)
    where = f"column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
    found = problem or ("binary" if positive else seen.problem(where, len(columns)))
    named = tuple(columns) if len(columns) == max(seen.width, 1) else tuple(str(i) for i in range(seen.width))
    if found == "regression" or (found == "multilabel" and seen.words <= set(TRUTH) and seen.vector):
        return Space(task, found, named, TRUTH if found == "multilabel" else None)
    if found == "binary":
        return Space(task, found, *_binary(seen, columns, where, positive))
    classes = _sorted({text for raw in taught for text in np.unique(as_texts(raw)).tolist()} - {""})
    if found == "multiclass" and len(classes) < 2:
        raise InputError(
            f"{where}: {'one class only, ' + repr(classes[0]) if classes else 'no class at all'} in what is trained "
            "on; there is nothing to tell apart"
        )
    if not classes:
        raise InputError(f"{where}: no label at all in what is trained on")
    return Space(task, found, classes)


def of_head(config: HeadConfig, columns: Sequence[str]) -> Space:
    """The labels of a head that is there already.

    Raises:
        InputError: nobody knows what it predicts.
    """
    if config.problem is None:
        raise InputError("the head of --start does not say what it predicts, so labels cannot be put in its terms")
    given = len(columns) > 1 or not config.labels
    numbers = config.problem == "binary" or (config.problem == "multilabel" and given)
    return Space(config.kind, config.problem, config.label_names, TRUTH if numbers else None)


def tally(space: Space, labels: Iterable[np.ndarray]) -> Counter[str]:
    """Labelled sequences (nucleotides) of every class; of the yes for yes-or-no labels."""
    counts: Counter[str] = Counter(dict.fromkeys(space.names, 0))
    for array in labels:
        if space.problem == "multiclass":
            known, times = np.unique(array[array >= 0], return_counts=True)
            counts.update({space.names[k]: n for k, n in zip(known.tolist(), times.tolist(), strict=True)})
        else:
            yes = (array > 0.5).reshape(-1, space.num_labels).sum(0)
            counts.update(dict(zip(space.names, yes.tolist(), strict=True)))
    return counts


def shown(names: Sequence[str]) -> str:
    """Names in a message, the first ones of many."""
    return ", ".join(names[:_FEW]) + (f", and {len(names) - _FEW:,} more" if len(names) > _FEW else "")


@dataclass
class _Seen:
    """What labels look like, all rows together.

    Attributes:
        words: the different texts.
        floats: the different numbers that were no texts, as far as they tell 0 and 1 from others.
        vector: whether there are several labels for one thing; `ragged` where their number differs.
        width: how many.
        total: labelled things.
    """

    words: set[str]
    floats: set[float]
    vector: bool
    ragged: bool
    width: int
    total: int

    @classmethod
    def of(cls, raws: Iterable[np.ndarray], axes: int) -> _Seen:
        words: set[str] = set()
        floats: set[float] = set()
        total = 0
        widths: set[int] = set()
        for raw in raws:
            total += raw.size
            if raw.dtype.kind == "f":
                known = raw[~np.isnan(raw)]
                floats.update(known[np.isin(known, (0, 1))][:1].tolist(), known[~np.isin(known, (0, 1))][:1].tolist())
            else:
                words.update(np.unique(raw).tolist())
            widths.add(raw.shape[-1] if raw.ndim > axes else 0)
        words.discard("")
        vector = bool(widths - {0})
        return cls(words, floats, vector, len(widths) > 1, max(widths, default=0) if vector else 1, total)

    def problem(self, where: str, num_columns: int) -> Problem:
        lower = {word.lower() for word in self.words}
        if self.floats <= {0.0, 1.0} and lower <= set(TRUTH) and (self.floats or not lower <= set(_PLAIN)):
            yes_no = "multilabel" if self.vector else "binary"
            raise InputError(
                f"{where}: the labels are 0.0 and 1.0, which may be yes or no, or values; say what they are: --problem "
                f"{yes_no} or regression"
            )
        if self.floats:
            return "regression"
        if lower <= set(_PLAIN) and not self.ragged:
            return "multilabel" if self.vector else "binary"
        whole = all(_is_whole(word) for word in self.words)
        if not whole and all(_is_number(word) for word in self.words):
            return "regression"
        if self.vector:
            if whole or num_columns > 1:
                raise InputError(f"{where}: say what the labels are: --problem regression or multilabel")
            return "multilabel"
        if (whole and len(self.words) > max(20, self.total // 10)) or len(self.words) > MOST_CLASSES:
            raise InputError(
                f"{where}: {len(self.words):,} different labels ({shown(_sorted(self.words)[:3])} ...); say what they "
                "are: --problem regression or multiclass"
            )
        return "multiclass"


def _binary(
    seen: _Seen, columns: Sequence[str], where: str, positive: str | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The name of the one output, and which word is yes."""
    words = _sorted(seen.words)
    if positive is None and {word.lower() for word in words} <= set(TRUTH):
        return (columns[0],), TRUTH
    if len(words) != 2:
        raise InputError(f"{where}: {len(words)} different labels ({shown(words)}) where --problem binary has two")
    if positive not in words:
        asked = "say which" if positive is None else f"--positive {positive} is none of them; say which"
        raise InputError(f"{where}: the labels are {words[0]} and {words[1]}; {asked} is yes: --positive {words[1]}")
    return (positive,), {word: int(word == positive) for word in words}


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    """By number if all of them are whole numbers, else by letter."""
    listed = list(words)
    return tuple(sorted(listed, key=int) if all(map(_is_whole, listed)) else sorted(listed))


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_texts(raw: np.ndarray) -> np.ndarray:
    """Labels as texts, "" where nothing is known; whole numbers without a decimal point."""
    if raw.dtype.kind == "U":
        return raw
    texts = ["" if np.isnan(x) else f"{x:.0f}" if x == int(x) else str(x) for x in raw.ravel().tolist()]
    return np.array(texts, dtype=str).reshape(raw.shape)


def _numbers(raw: np.ndarray) -> np.ndarray:
    if raw.dtype.kind == "f":
        return raw.astype(np.float32)

    def number(text: str) -> float:
        if not text:
            return np.nan
        if not _is_number(text) or not np.isfinite(float(text)):
            raise LabelError(f"{text!r} where a finite number is expected")
        return float(text)

    return _mapped(raw, number, np.float32)


def _mapped(raw: np.ndarray, function, dtype) -> np.ndarray:  # type: ignore[no-untyped-def]
    words, places = np.unique(raw, return_inverse=True)
    return np.array([function(word) for word in words.tolist()], dtype)[places].reshape(raw.shape)
