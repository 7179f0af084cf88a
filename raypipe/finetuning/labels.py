"""Labels as people write them, as arrays of texts or numbers; what they mean is settled in `spaces`.

Texts are arrays of kind U ("" where nothing is known), numbers of kind f (NaN where nothing is known), pairs of
nucleotides (n, 2) of kind i with i < j, counted from 0. Legend: L nucleotides, C outputs of the head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import ModelError
from model.head_config import Kind, Problem
from model.structure import Structure, parse_dot_bracket
from raypipe.errors import UsageError

_SEPARATORS = re.compile(r"\s*[,;|]\s*|\s+")
_PARTED = re.compile(r"[,;|\s]")


class LabelError(Exception):
    """A label that cannot be used; the message is the reason for the rejects."""


@dataclass(frozen=True)
class Words:
    """What label texts are called.

    Attributes:
        rename: as written -> as used; "" is unlabelled.
        others: what all that `rename` does not name become; None leaves them.
        missing: texts that stand for no label.
    """

    rename: dict[str, str]
    others: str | None
    missing: frozenset[str]

    @classmethod
    def of(cls, rename: Sequence[str], missing: Sequence[str]) -> Words:
        """Out of OLD=NEW texts.

        Raises:
            UsageError: one has no "=", or an old name stands there twice.
        """
        names: dict[str, str] = {}
        for text in rename:
            # The last one: "=" may be a character of an annotation, but not of a class's new name.
            old, equals, new = text.rpartition("=")
            if not equals or not old:
                raise UsageError(f"--rename {text}: write OLD=NEW, separated by commas; '*=NEW' is for all others")
            if old in names:
                raise UsageError(f"--rename: {old!r} stands there twice")
            names[old] = new.strip()
        others = names.pop("*", None)
        return cls(names, others, frozenset({"", *missing}))

    def __call__(self, text: str) -> str:
        """The name in use; "" where there is none."""
        if text in self.missing:
            return ""
        if text in self.rename:
            return self.rename[text]
        return text if self.others is None else self.others


@dataclass(frozen=True)
class Parser:
    """Turns the values of a row's label columns into an array.

    Attributes:
        task: what they speak of.
        columns: their names.
        words: see there.
        problem: as the user says it; None: nobody does.
    """

    task: Kind
    columns: tuple[str, ...]
    words: Words
    problem: Problem | None = None

    def __call__(self, values: dict[str, Any], length: int) -> np.ndarray | None:
        """The labels of a sequence of `length` nucleotides: () or (C,), (L,) or (L, C), or pairs (n, 2).

        Returns:
            None where nothing is labelled.

        Raises:
            LabelError: they do not fit the sequence, or are no labels.
        """
        cells = [values[name] for name in self.columns]
        if self.task in ("contact", "structure"):
            return self._pairs(cells, length)
        parts = [self._cell(cell, length) for cell in cells]
        if all(part is None for part in parts):
            return None
        if len(parts) == 1:
            return parts[0]
        shapes = {part.shape for part in parts if part is not None}
        if len(shapes) > 1 or any(len(shape) > (self.task == "token") for shape in shapes):
            raise LabelError(f"the columns {', '.join(self.columns)} do not hold one label each")
        (shape,) = shapes
        filled = [np.full(shape, np.nan) if part is None else part for part in parts]
        if any(part.dtype.kind == "U" for part in filled if not _all_missing(part)):
            filled = [np.full(shape, "") if _all_missing(part) else _texts(part) for part in filled]
        return np.stack(filled, axis=-1)

    def _cell(self, cell: Any, length: int) -> np.ndarray | None:
        if self.task == "token":
            return self._token(cell, length)
        if isinstance(cell, str) and self.problem == "multilabel" and not _is_json(cell):
            cell = [part for part in re.split(r"[,;|]", cell) if part.strip()] if self.words(cell.strip()) else None
        value = _loads(cell)
        if value is None:
            return None
        if isinstance(value, list | tuple | np.ndarray):
            return self._array(list(value))
        found = self._array([value])
        return None if _all_missing(found) else found[0:1].reshape(())

    def _token(self, cell: Any, length: int) -> np.ndarray | None:
        value = _loads(cell)
        if value is None:
            return None
        if isinstance(value, str):
            text = value.strip()
            if self.words(text) == "" and text in self.words.missing:
                return None
            # One character for each nucleotide, unless it has as many parts as there are nucleotides.
            parts = _SEPARATORS.split(text) if _PARTED.search(text) else list(text)
            value = list(text) if len(text) == length and len(parts) != length else parts
        if not isinstance(value, list | tuple | np.ndarray):
            raise LabelError(f"{_short(value)} is one label, and there are {length} nucleotides")
        if len(value) != length:
            raise LabelError(f"{len(value)} labels for {length} nucleotides")
        rows = list(value)
        if rows and isinstance(rows[0], list | tuple | np.ndarray):
            widths = {len(row) if isinstance(row, list | tuple | np.ndarray) else 1 for row in rows}
            if len(widths) > 1:
                raise LabelError("nucleotides with different numbers of labels")
            return self._array([one for row in rows for one in row]).reshape(length, widths.pop())
        found = self._array(rows)
        return None if _all_missing(found) else found

    def _array(self, values: list[Any]) -> np.ndarray:
        """A list of labels as numbers if all of them are fractional numbers, else as texts."""
        if any(isinstance(value, list | tuple | dict | np.ndarray) for value in values):
            raise LabelError("a list within a list")
        if any(isinstance(value, float) for value in values) and not any(isinstance(value, str) for value in values):
            numbers = np.array([np.nan if value is None else float(value) for value in values])
            if np.isinf(numbers).any():
                raise LabelError("an infinite number")
            return numbers
        return np.array([self.words(_text(value)) for value in values], dtype=str)

    def _pairs(self, cells: list[Any], length: int) -> np.ndarray | None:
        if len(cells) == 2:
            first, second = map(_loads, cells)
            if first is None or second is None:
                return None
            if isinstance(first, str) or isinstance(second, str) or len(first) != len(second):
                raise LabelError(f"{self.columns[0]} and {self.columns[1]} are no two lists of one length")
            value: Any = list(zip(first, second, strict=True))
        else:
            value = _loads(cells[0])
        if value is None or (isinstance(value, str) and value.strip() in self.words.missing):
            return None
        if isinstance(value, str):
            text = value.strip()
            if len(text) != length:
                raise LabelError(f"a dot-bracket of {len(text)} characters for {length} nucleotides")
            try:
                value = parse_dot_bracket(text)
            except ModelError as error:
                raise LabelError(str(error)) from None
        pairs = _as_pairs(value)
        if ((pairs < 0) | (pairs >= length)).any():
            worst = pairs[((pairs < 0) | (pairs >= length)).any(1)][0].tolist()
            raise LabelError(f"the pair {worst} is outside of the {length} nucleotides (counted from 0)")
        if (pairs[:, 0] == pairs[:, 1]).any():
            raise LabelError("a nucleotide that pairs with itself")
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        if self.task == "structure":
            try:
                Structure("N" * length, tuple(map(tuple, pairs.tolist())))
            except ModelError as error:
                raise LabelError(str(error)) from None
        return pairs


def _as_pairs(value: Any) -> np.ndarray:
    if not isinstance(value, list | tuple | np.ndarray):
        raise LabelError(f"{_short(value)} is no list of pairs and no dot-bracket")
    rows = [list(one.values()) if isinstance(one, dict) else one for one in value]
    try:
        pairs = np.array(rows)
    except ValueError:
        raise LabelError("pairs of different lengths; write (i, j), two whole numbers each") from None
    if len(rows) == 0:
        return np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise LabelError("no list of pairs; write (i, j), two whole numbers each")
    return pairs.astype(np.int64)


def _is_json(text: str) -> bool:
    return text.startswith("[") and text.endswith("]") and (text == "[]" or any(map(str.isdigit, text)) or '"' in text)


def _loads(cell: Any) -> Any:
    """A list that stands as JSON in a text table, else the cell as it is; None where it is empty."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if not text:
            return None
        if _is_json(text):
            try:
                return json.loads(text)
            except ValueError:
                return cell
    return cell


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    return str(value).strip()


def _texts(part: np.ndarray) -> np.ndarray:
    """Numbers written out."""
    if part.dtype.kind == "U":
        return part
    return np.array(["" if np.isnan(x) else str(float(x)) for x in part.ravel()], dtype=str).reshape(part.shape)


def _all_missing(part: np.ndarray) -> bool:
    return bool((part == "").all() if part.dtype.kind == "U" else np.isnan(part).all())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
