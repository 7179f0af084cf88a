"""The set of `raypipe eval structure`: sequences whose base pairs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raypipe.cleaning import clean, md5
from raypipe.errors import InputError, UsageError
from raypipe.evaluation.structure_settings import StructureEvalSettings
from raypipe.finetuning.examples import part_by
from raypipe.finetuning.labels import LabelError, Parser, Words
from raypipe.finetuning.rows import Rejects, Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.sources import STRUCTURE, USUAL_LABELS, read_rows
from raypipe.finetuning.tables import Wanted, read_table
from raypipe.tables import table_kind

_PARSE = Parser("structure", (STRUCTURE,), Words({}, None, frozenset({""})))
# Of identical sequences in several parts the one that is measured on counts, as in finetuning.
_RANK = {"test": 0, "valid": 1, "train": 2}


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


def read_known(inputs: Sequence[str], settings: StructureEvalSettings) -> KnownSet:
    """Read tables and structure files (dot-bracket, bpseq, ct, or a folder of these).

    Args:
        inputs: paths.
        settings: which rows and columns.

    Raises:
        InputError: a file cannot be read, too many rows are broken, or nothing is left.
        UsageError: options that the input has no use for.
    """
    rejects = Rejects()
    told = FinetuneSettings(
        task="structure",
        id_column=settings.id_column,
        sequence_column=settings.sequence_column,
        split_column=settings.split_column,
        group_column=[] if settings.group_column is None else [settings.group_column],
        valid=settings.valid,
        test=settings.test,
    )
    rows: list[Row] = []
    total = 0
    for path in inputs:
        read = _table_rows if table_kind(path) else _file_rows
        found, count = read(path, settings, rejects)
        rows += found
        total += count
    known = [one for row in rows if (one := _known(row, settings, told, rejects)) is not None]
    rejects.check(total, settings.max_rejects)
    if settings.distinct:
        known = _distinct(known, rejects)
    if settings.split != "all":
        _count(rejects, f"not in {settings.split}", sum(one.part != settings.split for one in known))
        known = [one for one in known if one.part == settings.split]
    if settings.sample is not None and settings.sample < len(known):
        _count(rejects, "not in the sample", len(known) - settings.sample)
        first = sorted(range(len(known)), key=lambda place: md5(known[place].sequence.encode("ascii")))
        known = [known[place] for place in sorted(first[: settings.sample])]
    if not known:
        why = ", ".join(f"{count:,} {kind}" for kind, count in rejects.kinds.items()) or "there are no rows"
        raise InputError(f"{inputs[0]}: no sequence with a known structure is left of {total:,} rows ({why})")
    counts = {"rows": total - rejects.unread, "rejected": rejects.num_broken, **rejects.kinds, "sequences": len(known)}
    return KnownSet(known, counts)


def _table_rows(path: str, settings: StructureEvalSettings, rejects: Rejects) -> tuple[list[Row], int]:
    """Rows, whose structure stands under STRUCTURE whatever its column is called, and how many there were."""
    more = dict.fromkeys(name for name in (settings.by, settings.group_column, settings.split_column) if name)
    wanted = Wanted(
        settings.id_column,
        settings.sequence_column,
        (settings.structure_column,) if settings.structure_column else (),
        usual_labels=USUAL_LABELS["structure"],
        others=tuple(more),
        where=settings.where,
    )
    before = rejects.num_broken
    try:
        found = read_table(path, wanted, rejects)
    except UsageError as error:
        # In finetune the structure is one of labels.
        raise UsageError(str(error).replace("label column with --labels", "one with --structure-column")) from None
    rows = [
        Row(path, line, str(id_ or f"row_{line}").strip(), str(sequence or "").strip(), {})
        for line, id_, sequence in zip(found.lines, found.column(found.id), found.column(found.sequence), strict=True)
    ]
    for name, column in {**{name: name for name in more}, STRUCTURE: found.labels[0]}.items():
        for row, cell in zip(rows, found.column(column), strict=True):
            row.values[name] = cell
    return rows, found.read + rejects.num_broken - before


def _file_rows(path: str, settings: StructureEvalSettings, rejects: Rejects) -> tuple[list[Row], int]:
    for option in ("by", "where", "group_column", "split_column", "structure_column"):
        if getattr(settings, option):
            raise UsageError(f"--{option.replace('_', '-')}: needs a table, and {path} is none; leave it out")
    rows, _, total = read_rows(FinetuneSettings(task="structure", data=[Path(path)]), rejects)
    return rows, total


def _known(
    row: Row, settings: StructureEvalSettings, told: FinetuneSettings, rejects: Rejects
) -> KnownStructure | None:
    """A row as a known structure; None where it is not used, which `rejects` is told."""
    canonical, reason = clean(row.sequence)
    pairs = None
    if reason is None:
        row = row._replace(sequence=canonical.decode("ascii"))
        try:
            pairs = _PARSE(row.values, len(row.sequence))
        except LabelError as error:
            reason = f"{STRUCTURE}: {error}"
    if reason is not None:
        rejects.broken(row.file, row.line, row.id, reason)
        return None
    if pairs is None:
        _count(rejects, "without a structure", 1)
        return None
    if len(row.sequence) > settings.max_length:
        _count(rejects, f"longer than {settings.max_length:,} nt", 1)
        return None
    group = row.values.get(settings.by) if settings.by else None
    group = "" if group is None else str(group).strip()
    return KnownStructure(f"{row.file}, line {row.line}", row.id, row.sequence, pairs, group, part_by(told, row))


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
