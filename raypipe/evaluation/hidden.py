"""Distinct sequences, and which of their nucleotides are hidden: the task of `raypipe eval mlm`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from raypipe.cleaning import judge, md5
from raypipe.errors import InputError, RaypipeError
from raypipe.evaluation.columns import find_column, id_and_sequence, read_columns, texts
from raypipe.evaluation.kmers import LETTERS, codes
from raypipe.evaluation.settings import MlmEvalSettings
from raypipe.records import TableColumns
from raypipe.sources import read_records
from raypipe.splits import part_of
from raypipe.tables import ID_COLUMNS
from raypipe.unpacking import shown

LENGTHS = (1, 65, 129, 257, 513, 1023)
"""Where the bins of length begin; the last one holds what a model of 1022 nt reads in windows."""


@dataclass(frozen=True)
class Hidden:
    """One sequence that is asked for.

    Attributes:
        sequence: upper case, U.
        places: (m,) of the hidden nucleotides, ascending.
        letters: (m,) what stands there, 0 to 3 for A, C, G, U.
        groups: what it belongs to, such as "65-128 nt" and "tRNA".
    """

    sequence: str
    places: np.ndarray
    letters: np.ndarray
    groups: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sequence with <mask> for what is hidden."""
        pieces = list(self.sequence)
        for place in self.places.tolist():
            pieces[place] = "<mask>"
        return "".join(pieces)


@dataclass(frozen=True)
class Task:
    """What is asked for, and what may be learned from.

    Attributes:
        asked: sequences with their hidden letters.
        others: the sequences of the training share.
        counts: what was read and what became of it.
        refused: of records that are no RNA, the first with its reason.
    """

    asked: list[Hidden]
    others: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    refused: str | None = None


def read_task(
    inputs: Sequence[str], settings: MlmEvalSettings, say: Callable[[str], None], longest: int | None = None
) -> Task:
    """Read all inputs, take distinct sequences, split them by md5, hide letters.

    Args:
        inputs: files, or "-".
        settings: the split, what is hidden, how results are told apart.
        say: takes one line for the person who waits.
        longest: cut the sequences that are asked for to so many nucleotides, before anything is hidden.

    Raises:
        InputError: an input cannot be read, or no sequence is left to ask for.
        RaypipeError: the column of the types is missing.
    """
    kinds = _kinds(inputs, settings)
    columns = TableColumns(settings.id_column, settings.sequence_column)
    found: dict[str, tuple[str, str]] = {}
    records = bad = 0
    refused = None
    for path in inputs:
        for record in read_records(path, columns):
            records += 1
            sequence, reason = judge(record)
            if reason is not None:
                bad += 1
                refused = refused or f"{shown(path)}, line {record.line}, {record.id or 'no id'}: {reason}"
                continue
            found.setdefault(md5(sequence), (sequence.decode("ascii"), kinds.get(record.id or "", "")))
        say(f"{shown(path)}: {records:,} records read")
    shares = {"valid": settings.share}
    digests = sorted(digest for digest in found if part_of(digest, shares) == "valid")
    if not digests:
        raise InputError(
            f"{', '.join(map(shown, inputs))}: none of {len(found):,} distinct sequences is in the share of "
            f"{settings.share:g} that is asked for{f' (refused: {refused})' if refused else ''}; raise --share"
        )
    asked = []
    for digest in digests[: settings.sample]:
        sequence, kind = found[digest]
        groups = (length_bin(len(sequence)), kind or "no type")
        sequence = sequence[:longest]
        places, letters = hide(sequence, digest, settings)
        if len(places):
            asked.append(Hidden(sequence, places, letters, groups))
    if not asked:
        raise InputError(f"{', '.join(map(shown, inputs))}: no sequence that is asked for has A, C, G or U")
    inside = set(digests)
    others = [sequence for digest, (sequence, _) in found.items() if digest not in inside]
    if not kinds:
        asked = [Hidden(one.sequence, one.places, one.letters, one.groups[:1]) for one in asked]
    counts = {
        "records": records,
        "refused": bad,
        "sequences": len(found),
        "held_out": len(digests),
        "asked": len(asked),
    }
    return Task(asked, others, counts, refused)


def hide(sequence: str, digest: str, settings: MlmEvalSettings) -> tuple[np.ndarray, np.ndarray]:
    """Places to hide and what stands there, the same whatever else is asked for.

    As in pre-training (`model.masking`): of n nucleotides rate * n, rounded up or down by chance, at least one.
    """
    letters, _ = codes([sequence])
    known = np.flatnonzero(letters < LETTERS)
    rng = np.random.default_rng([settings.seed, int(digest, 16)])
    wanted = min(len(known), max(1, int(settings.rate * len(known) + rng.random())))
    places = np.sort(rng.permutation(known)[:wanted])
    return places, letters[places]


def length_bin(length: int) -> str:
    """The bin of a length, such as "65-128 nt"."""
    for begin, end in pairwise(LENGTHS):
        if length < end:
            return f"{begin}-{end - 1} nt"
    return f"{LENGTHS[-1]} nt and more"


def _kinds(inputs: Sequence[str], settings: MlmEvalSettings) -> dict[str, str]:
    """What each id is, out of the annotations or the tables themselves; nothing where no column is named."""
    if settings.by is None:
        if settings.annotations is not None:
            raise RaypipeError(f"--annotations {settings.annotations}: name the column of it that is wanted with --by")
        return {}
    kinds: dict[str, str] = {}
    for path in [str(settings.annotations)] if settings.annotations is not None else inputs:
        if path == "-":
            raise RaypipeError("--by: standard input has no columns; give a table of ids with --annotations")
        table = read_columns(path)
        if settings.annotations is None:
            id_column, _ = id_and_sequence(path, table, settings.id_column, settings.sequence_column)
        else:
            id_column = find_column(path, table, None, ID_COLUMNS, "--annotations")
        values = texts(path, table, find_column(path, table, settings.by, (), "--by"))
        kinds.update(zip(texts(path, table, id_column), values, strict=True))
    return kinds
