"""Labelled sequences out of all forms of `--data`: tables, FASTA with a table, dot-bracket, bpseq and ct files.

The label of a structure file stands in a column called `structure`, as dot-bracket text or as pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.structure import Structure
from model.structure_files import parse_bpseq, parse_ct
from raypipe.cleaning import clean, judge
from raypipe.errors import InputError, UsageError
from raypipe.finetuning.rows import Rejects, Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.tables import TESTED, Columns, Wanted, read_table
from raypipe.sources import TableColumns, read_records
from raypipe.tables import table_kind
from raypipe.unpacking import BUFFER, open_unpacked, unreadable

STRUCTURE = "structure"
USUAL_LABELS = {"structure": ("structure", "dot_bracket"), "contact": ("contacts", "structure", "dot_bracket")}
"""Label columns of a table that are looked for where none is named."""

_PARSERS: dict[str, Callable[[str], Structure]] = {".bpseq": parse_bpseq, ".ct": parse_ct}
_HOW = (
    "give a table with sequence and label columns (.parquet, .csv, .tsv), FASTA with --table, or for structures "
    "dot-bracket (.dbn), .bpseq or .ct"
)


def read_rows(settings: FinetuneSettings, rejects: Rejects) -> tuple[list[Row], list[str], int]:
    """Read everything.

    Returns:
        The rows whose sequence can be used, the names of the label columns, and how many rows there were.

    Raises:
        InputError: a file is missing, damaged, of no known form, or lacks a column.
    """
    files = [file for path in settings.data for file in _files(path)]
    if settings.table is not None:
        return _joined(files, settings, rejects)
    rows: list[Row] = []
    columns: list[str] | None = None
    total = 0
    for file in files:
        read = _read_table if table_kind(file) else _read_structures
        found, named, count = read(file, settings, rejects)
        if columns is not None and named != columns:
            raise InputError(
                f"{file}: its labels stand in {', '.join(named)}, those of the files before in {', '.join(columns)}; "
                "name them with --labels"
            )
        columns = named
        rows += found
        total += count
    return rows, columns or [], total


def _files(path: Path) -> list[str]:
    """The file itself, or the structure files of a folder."""
    if not path.exists():
        raise unreadable(str(path), FileNotFoundError())
    if not path.is_dir():
        return [str(path)]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in (*_PARSERS, ".dbn"))
    if not found:
        raise InputError(f"{path}: a folder without .dbn, .bpseq or .ct files; name the files in it")
    return [str(file) for file in found]


def _others(settings: FinetuneSettings) -> tuple[str, ...]:
    return (*([settings.split_column] if settings.split_column else []), *settings.group_column)


def _wanted(settings: FinetuneSettings, **about: Any) -> Wanted:
    return Wanted(
        settings.id_column,
        settings.sequence_column,
        tuple(settings.labels),
        usual_labels=USUAL_LABELS.get(settings.kind, ()),
        others=_others(settings),
        where=settings.where,
        marks={TESTED: settings.test_where} if settings.test_where else {},
        **about,
    )


def _read_table(file: str, settings: FinetuneSettings, rejects: Rejects) -> tuple[list[Row], list[str], int]:
    before = rejects.num_broken
    found = read_table(file, _wanted(settings), rejects)
    broken = rejects.num_broken - before
    ids, sequences = found.column(found.id), found.column(found.sequence)
    values = _by_row(found, settings)
    rows: list[Row] = []
    for line, id_, sequence, own in zip(found.lines, ids, sequences, values, strict=True):
        name = str(id_ if id_ is not None else "").strip() or f"row_{line}"
        _take(Row(file, line, name, str(sequence or "").strip(), own), rows, rejects)
    return rows, list(found.labels), len(found.lines) + broken


def _joined(files: list[str], settings: FinetuneSettings, rejects: Rejects) -> tuple[list[Row], list[str], int]:
    """Sequences of the files with the values of `--table`, by id."""
    table = read_table(str(settings.table), _wanted(settings, need_id=True, need_sequence=False), rejects)
    places: dict[str, tuple[int, dict[str, Any]]] = {}
    for line, id_, own in zip(table.lines, table.column(table.id), _by_row(table, settings), strict=True):
        name = str(id_ if id_ is not None else "").strip()
        if not name:
            rejects.broken(table.file, line, None, f"no value in column {table.id!r}")
        elif name in places and places[name][1] != own:
            reason = f"the id stands in line {places[name][0]} with other values; choose rows with --where"
            rejects.broken(table.file, line, name, reason)
        else:
            places.setdefault(name, (line, own))
    rows: list[Row] = []
    seen: set[str] = set()
    total = len(table.lines)
    columns = TableColumns(settings.id_column, settings.sequence_column)
    for file in files:
        for record in read_records(file, columns):
            id_ = record.id or ""
            if id_ not in places:
                rejects.kinds["without a row in the table"] += 1
                continue
            canonical, reason = judge(record)
            if reason is None and id_ in seen:
                reason = "the id was there before, so its labels may be another's"
            seen.add(id_)
            if reason is not None:
                rejects.broken(file, record.line, id_, reason)
            else:
                rows.append(Row(file, record.line, id_, canonical.decode("ascii"), places[id_][1]))
    rejects.kinds["without a sequence"] += len(places) - len(seen)
    return rows, list(table.labels), total


def _read_structures(file: str, settings: FinetuneSettings, rejects: Rejects) -> tuple[list[Row], list[str], int]:
    """The records of a dot-bracket, bpseq or ct file."""
    if settings.task == "sequence":
        raise UsageError(f"{file}: holds no labels of sequences; {_HOW}")
    if settings.where or settings.split_column or settings.group_column or settings.test_where:
        raise UsageError(
            f"{file}: --where, --test-where, --split-column and --group-column need a table, and this is none"
        )
    suffix = Path(file).suffix.lower()
    rows: list[Row] = []
    total = 0
    with open_unpacked(file) as stream:
        if suffix in _PARSERS:
            if settings.task == "token":
                raise UsageError(f"{file}: gives pairs, not labels of nucleotides; {_HOW}")
            text = stream.read().decode("utf-8", "replace")
            try:
                structure = _PARSERS[suffix](text)
            except ModelError as error:
                raise InputError(f"{file}: {error}") from None
            _take(Row(file, 1, Path(file).stem, structure.sequence, {STRUCTURE: structure.pairs}), rows, rejects)
            return rows, [STRUCTURE], 1
        start = stream.peek(BUFFER).lstrip()
        if not start.startswith((b">", b"#")):
            raise InputError(
                f"{file}: no table and no dot-bracket file (its name does not say, it begins {start[:20]!r}); {_HOW}"
            )
        for line, name, lines in _records(stream.read().decode("utf-8", "replace").splitlines()):
            total += 1
            halves = len(lines) // 2
            if len(lines) % 2 or not lines:
                reason = f"{len(lines)} lines where a sequence and a dot-bracket are expected; FASTA needs --table"
                rejects.broken(file, line, name, reason)
                continue
            own = {STRUCTURE: "".join(text.split()[0] for text in lines[halves:])}
            _take(Row(file, line, name or f"record_{total}", "".join(lines[:halves]), own), rows, rejects)
    return rows, [STRUCTURE], total


def _records(lines: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Line, name and lines of every record of a dot-bracket file, `>` or bpRNA's `#Name:` before each."""
    begin, name, body = 0, "", []
    for number, text in enumerate(lines, 1):
        text = text.strip()
        header = text.startswith(">") or text.startswith("#Name:")
        if header:
            if begin:
                yield begin, name, body
            words = text.removeprefix(">").removeprefix("#Name:").split()
            begin, name, body = number, words[0] if words else "", []
        elif text and not text.startswith("#"):
            body.append(text)
    if begin:
        yield begin, name, body


def _by_row(found: Columns, settings: FinetuneSettings) -> list[dict[str, Any]]:
    """The values of the label and split columns, row by row."""
    names = [*found.labels, *_others(settings), *([TESTED] if settings.test_where else [])]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*map(found.column, names), strict=True)]


def _take(row: Row, rows: list[Row], rejects: Rejects) -> None:
    canonical, reason = clean(row.sequence)
    if reason is not None:
        rejects.broken(row.file, row.line, row.id, reason)
    else:
        rows.append(row._replace(sequence=canonical.decode("ascii")))
