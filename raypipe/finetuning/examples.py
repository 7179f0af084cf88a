"""Labelled sequences as they are taught, and the parts that they fall into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raypipe.cleaning import md5
from raypipe.errors import InputError, UsageError
from raypipe.finetuning.rows import Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.spaces import Space
from raypipe.splits import part_of

PARTS = ("train", "valid", "test")
# What people write in a split column, in lower case.
_PART_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "vl"), "valid"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}


@dataclass(frozen=True)
class Examples:
    """Everything that is taught and measured.

    Attributes:
        ids, places, sequences: N of each; a place is where it was read, for messages.
        labels: N arrays in the form of `Space.encode`; of pair tasks the pairs (n, 2).
        parts: (N,) texts out of `PARTS`.
        space: what the labels mean.
    """

    ids: list[str]
    places: list[str]
    sequences: list[str]
    labels: list[np.ndarray]
    parts: np.ndarray
    space: Space

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) nucleotides."""
        return np.array([len(sequence) for sequence in self.sequences], np.int64)

    def part(self, name: str) -> np.ndarray:
        """Places of the examples of a part."""
        return np.flatnonzero(self.parts == name)

    def labels_of(self, places: np.ndarray) -> np.ndarray:
        """Labels of some examples of a task without pairs: (n,) or (n, C); of nucleotides one after another."""
        found = [self.labels[place] for place in places.tolist()]
        return np.stack(found) if self.space.task == "sequence" else np.concatenate(found)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it: a run goes on with the same data only."""
        whole = hashlib.sha256(repr((self.space, self.ids, self.parts.tolist())).encode())
        for sequence, labels in zip(self.sequences, self.labels, strict=True):
            whole.update(sequence.encode() + b"\0" + np.ascontiguousarray(labels).tobytes() + b"\0")
        return whole.hexdigest()


def part_by(settings: FinetuneSettings, row: Row) -> str:
    """The part of a row: by its split column, its group, or its sequence.

    Raises:
        InputError: the split column holds something else than the names of parts.
    """
    if settings.split_column:
        said = word(row.values[settings.split_column]).lower()
        if said not in _PART_WORDS:
            raise InputError(
                f"{row.file}, line {row.line}, {row.id}: the split column {settings.split_column!r} holds {said!r}; it "
                "says train, valid or test (choose rows with --where)"
            )
        return _PART_WORDS[said]
    groups = (word(row.values[name]) for name in settings.group_column)
    key = next(filter(None, groups), None)
    shares: Mapping[str, float] = {"test": settings.test, "valid": settings.valid}
    return part_of(key or md5(row.sequence.encode("ascii")), shares)


def check_parts(settings: FinetuneSettings, parts: np.ndarray) -> None:
    """Refuse a split without training data, or without a part that was asked for.

    Raises:
        UsageError: with what to change.
    """
    counts = {name: int((parts == name).sum()) for name in PARTS}
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if not counts["train"] and settings.epochs:
        raise UsageError(f"nothing to train on ({said}); see --split-column, --group-column, --valid and --test")
    if settings.split_column:
        return
    if settings.test_where and not counts["test"]:
        raise UsageError(f"--test-where {settings.test_where!r}: none of the rows that it chooses can be used ({said})")
    for name in ("valid", "test"):
        if getattr(settings, name) and not counts[name]:
            group = " groups" if settings.group_column else ""
            raise UsageError(
                f"no sequence falls into {name} ({said}): there are too few{group or ' sequences'} for a share of "
                f"{getattr(settings, name):g}; give --split-column, or --{name} 0 to do without"
            )


def word(value: Any) -> str:
    """A value of a column as text, "" where there is none."""
    return "" if value is None or value != value else str(value).strip()  # NaN is not itself
