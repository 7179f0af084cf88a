"""The set of `raypipe eval structure`: sequences whose base pairs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raypipe.cleaning import clean, md5
from raypipe.errors import InputError, UsageError
from raypipe.evaluation.finetuned import Finetuned
from raypipe.evaluation.structure_settings import StructureEvalSettings
from raypipe.finetuning.labels import LabelError, Parser, Words
from raypipe.finetuning.parting import NEAR_TEST, parts_of
from raypipe.finetuning.rows import Rejects, Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.sources import STRUCTURE, USUAL_LABELS, read_rows
from raypipe.finetuning.tables import CHOSEN, TESTED, Wanted, read_table
from raypipe.tables import table_kind

# Of identical sequences in several parts the one that is measured on counts, as in finetuning.
_RANK = {"test": 0, "valid": 1, "train": 2, NEAR_TEST: 3}
# What a result says itself.
_OF_RESULT = ("id_column", "sequence_column", "structure_column", "split_column", "group_column", "valid", "test")


class KnownStructure(NamedTuple):
    """One sequence: where it stands, its id, its canonical letters, its pairs (n, 2), its group and part."""

    place: str
    id: str
    sequence: str
    pairs: np.ndarray
    group: str
    part: str


@dataclass(frozen=True)
class KnownSet:
    """What is measured on.

    Attributes:
        known: in the order of the input.
        counts: what was read, and what became of it.
    """

    known: list[KnownStructure]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.known)


def read_known(inputs: Sequence[str], settings: StructureEvalSettings, result: Finetuned | None = None) -> KnownSet:
    """Read tables and structure files (dot-bracket, bpseq, ct, or a folder of these).

    Args:
        inputs: paths.
        settings: which rows and columns.
        result: whose split holds.

    Raises:
        InputError: a file cannot be read, too many rows are broken, or nothing is left.
        UsageError: options that the input has no use for.
    """
    rejects = Rejects()
    told = _told(settings, result)
    rows: list[Row] = []
    total = 0
    for path in inputs:
        read = _table_rows if table_kind(path) else _file_rows
        found, count = read(path, settings, told, rejects)
        rows += found
        total += count
    rows = [clean_ for row in rows if (clean_ := _cleaned(row, rejects)) is not None]
    parts = parts_of(told, rows)
    if result is not None and settings.where:
        # The split is that of all of the result's data.
        _count(rejects, "not chosen by --where", sum(not row.values[CHOSEN] for row in rows))
        parts = [part for row, part in zip(rows, parts, strict=True) if row.values[CHOSEN]]
        rows = [row for row in rows if row.values[CHOSEN]]
    parse = Parser("structure", (STRUCTURE,), Words.of([], told.missing))
    known = [
        one
        for row, part in zip(rows, parts, strict=True)
        if (one := _known(row, parse, settings, part, rejects)) is not None
    ]
    rejects.check(total, settings.max_rejects)
    if settings.distinct:
        known = _distinct(known, rejects)
    if settings.part != "all":
        _count(rejects, f"not in {settings.part}", sum(one.part != settings.part for one in known))
        known = [one for one in known if one.part == settings.part]
    if settings.sample is not None and settings.sample < len(known):
        _count(rejects, "not in the sample", len(known) - settings.sample)
        first = sorted(range(len(known)), key=lambda place: md5(known[place].sequence.encode("ascii")))
        known = [known[place] for place in sorted(first[: settings.sample])]
    if not known:
        why = ", ".join(f"{count:,} {kind}" for kind, count in rejects.kinds.items()) or "there are no rows"
        raise InputError(f"{inputs[0]}: no sequence with a known structure is left of {total:,} rows ({why})")
    counts = {"rows": total - rejects.unread, "rejected": rejects.num_broken, **rejects.kinds, "sequences": len(known)}
    return KnownSet(known, counts)


def _told(settings: StructureEvalSettings, result: Finetuned | None) -> FinetuneSettings:
    """How the rows are read and split.

    Raises:
        UsageError: an option that the result has its own value of, or two that say how to split.
    """
    if result is not None:
        usual = StructureEvalSettings()
        if given := next((name for name in _OF_RESULT if getattr(settings, name) != getattr(usual, name)), None):
            raise UsageError(f"--{given.replace('_', '-')}: with --as that of the result holds; leave it out")
        return result.settings
    if settings.split_column and settings.group_column:
        raise UsageError("--group-column: with --split-column the column decides; leave it out")
    return FinetuneSettings(
        task="structure",
        id_column=settings.id_column,
        sequence_column=settings.sequence_column,
        labels=[settings.structure_column] if settings.structure_column else [],
        where=settings.where,
        split_column=settings.split_column,
        group_column=[] if settings.group_column is None else [settings.group_column],
        valid=settings.valid,
        test=settings.test,
    )


def _table_rows(
    path: str, settings: StructureEvalSettings, told: FinetuneSettings, rejects: Rejects
) -> tuple[list[Row], int]:
    """Rows, whose structure stands under STRUCTURE whatever its column is called, and how many there were."""
    more = dict.fromkeys(name for name in (settings.by, *told.group_column, told.split_column) if name)
    marks = {TESTED: told.test_where} if told.test_where else {}
    if settings.as_result is not None and settings.where:
        marks[CHOSEN] = settings.where
    wanted = Wanted(
        told.id_column,
        told.sequence_column,
        tuple(told.labels),
        usual_labels=USUAL_LABELS["structure"],
        others=tuple(more),
        where=told.where,
        marks=marks,
        ask="the column of the known structure with --structure-column",
    )
    before = rejects.num_broken
    found = read_table(path, wanted, rejects)
    rows = [
        Row(path, line, str(id_ or f"row_{line}").strip(), str(sequence or "").strip(), {})
        for line, id_, sequence in zip(found.lines, found.column(found.id), found.column(found.sequence), strict=True)
    ]
    for name, column in {**{name: name for name in (*more, *marks)}, STRUCTURE: found.labels[0]}.items():
        for row, cell in zip(rows, found.column(column), strict=True):
            row.values[name] = cell
    return rows, found.read + rejects.num_broken - before


def _file_rows(
    path: str, settings: StructureEvalSettings, told: FinetuneSettings, rejects: Rejects
) -> tuple[list[Row], int]:
    for option in ("by", "where", "group_column", "split_column", "structure_column"):
        if getattr(settings, option):
            raise UsageError(f"--{option.replace('_', '-')}: needs a table, and {path} is none; leave it out")
    if told.where or told.test_where or told.split_column or told.group_column:
        raise UsageError(f"--as {settings.as_result}: its split needs the columns of a table, and {path} is none")
    rows, _, total = read_rows(FinetuneSettings(task="structure", data=[Path(path)]), rejects)
    return rows, total


def _cleaned(row: Row, rejects: Rejects) -> Row | None:
    """A row with the letters of the model's alphabet; None where it has others, which `rejects` is told."""
    canonical, reason = clean(row.sequence)
    if reason is not None:
        rejects.broken(row.file, row.line, row.id, reason)
        return None
    return row._replace(sequence=canonical.decode("ascii"))


def _known(
    row: Row, parse: Parser, settings: StructureEvalSettings, part: str, rejects: Rejects
) -> KnownStructure | None:
    """A row as a known structure; None where it is not used, which `rejects` is told."""
    try:
        pairs = parse(row.values, len(row.sequence))
    except LabelError as error:
        rejects.broken(row.file, row.line, row.id, f"{STRUCTURE}: {error}")
        return None
    if pairs is None:
        _count(rejects, "without a structure", 1)
        return None
    if len(row.sequence) > settings.max_length:
        _count(rejects, f"longer than {settings.max_length:,} nt", 1)
        return None
    group = row.values.get(settings.by) if settings.by else None
    group = "" if group is None else str(group).strip()
    return KnownStructure(f"{row.file}, line {row.line}", row.id, row.sequence, pairs, group, part)


def _distinct(known: list[KnownStructure], rejects: Rejects) -> list[KnownStructure]:
    """Each sequence once: its first row, of those in the part that is measured on rather than trained on."""
    first: dict[str, KnownStructure] = {}
    for one in known:
        chosen = first.setdefault(one.sequence, one)
        if _RANK[one.part] < _RANK[chosen.part]:
            first[one.sequence] = one
    for one in known:
        chosen = first[one.sequence]
        if chosen is not one:
            same = np.array_equal(one.pairs, chosen.pairs)
            _count(rejects, "repeated" if same else "repeated with another structure", 1)
    return [one for one in known if first[one.sequence] is one]


def _count(rejects: Rejects, kind: str, number: int) -> None:
    if number:
        rejects.kinds[kind] += number
