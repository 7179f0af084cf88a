"""What an argument is: a folder with store.json is an atlas, an existing path is a file, anything else a sequence.

Folders and files may be named by their URI, such as s3://bucket/atlas.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from index.places import is_uri
from index.store import is_store
from raypipe.cleaning import clean
from raypipe.errors import UsageError
from raypipe.sources import BadRow, TableColumns, read_records
from raypipe.unpacking import shown

STDIN = "/dev/stdin"


def refuse_remote(_: object, value: object) -> None:
    """Of every option that is a file on this machine; an atlas and its inputs are texts, and may be URIs.

    Raises:
        ValueError: it is a URI, of which a path keeps one slash.
    """
    if isinstance(value, Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]", str(value)):
        raise ValueError(f"{value}: here a file or folder on a disk of this machine is meant, not a URI.")


def spell_stdin(arguments: Sequence[str]) -> list[str]:
    """A command line with "-" spelt out: cyclopts would take it for an option."""
    return [STDIN if text == "-" else text for text in arguments]


def name_stdin(arguments: Sequence[str]) -> list[str]:
    """Inputs with standard input called "-" again, as everything behind the command line knows it.

    Raises:
        UsageError: it is there twice, and can be read once.
    """
    named = ["-" if text == STDIN else text for text in arguments]
    if named.count("-") > 1:
        raise UsageError("-: standard input can be read once; name it once")
    return named


def is_atlas(argument: str) -> bool:
    """Whether `argument` is the folder of an atlas; a sequence may be longer than any file name."""
    return (is_uri(argument) or os.path.isdir(argument)) and is_store(argument)


def read_queries(arguments: Sequence[str], columns: TableColumns | None = None) -> tuple[list[str], list[str]]:
    """Names and sequences of the queries in files and literal sequences.

    Raises:
        UsageError: an argument is neither a file nor RNA, or a record of a file is no RNA; the message says which.
    """
    names: list[str] = []
    sequences: list[str] = []
    literals = 0
    for argument in name_stdin(arguments):
        if is_atlas(argument):
            raise UsageError(f"{argument}: is an atlas; name queries (sequences or FASTA files), or use --ids")
        if argument == "-" or is_uri(argument) or os.path.exists(argument):
            for record in read_records(argument, columns):
                reason = record.reason if isinstance(record, BadRow) else clean(record.sequence)[1]
                if isinstance(record, BadRow) or reason is not None:
                    raise UsageError(f"{shown(argument)}, line {record.line}, {record.id or 'no id'}: {reason}")
                names.append(record.id)
                sequences.append(record.sequence)
            continue
        literals += 1
        names.append(f"query_{literals}")
        sequences.append(literal_sequence(argument))
    return names, sequences


def literal_sequence(argument: str) -> str:
    """`argument` as RNA.

    Raises:
        UsageError: it is not; most likely a file that does not exist.
    """
    reason = clean(argument.strip())[1]
    if reason is not None:
        raise UsageError(f"{argument}: no such file, and no RNA sequence either ({reason})")
    return argument.strip()


def literal_fasta(arguments: Sequence[str]) -> io.BytesIO:
    """Literal sequences as FASTA, named sequence_1, sequence_2, ..."""
    records = (f">sequence_{number}\n{literal_sequence(text)}\n" for number, text in enumerate(arguments, 1))
    return io.BytesIO("".join(records).encode("ascii"))


def named_files(arguments: Sequence[str]) -> dict[str, Path]:
    """NAME=FILE arguments; a bare FILE is named by its stem.

    Raises:
        UsageError: no argument, a name twice, or no name to be made of the file's.
    """
    tables: dict[str, Path] = {}
    if not arguments:
        raise UsageError("name annotation files, as NAME=FILE")
    for argument in arguments:
        if found := re.search(r"[A-Za-z][A-Za-z0-9+.-]*://", argument):
            where = argument[found.start() :]
            raise UsageError(f"{where}: annotation files are read from a disk; copy it here, and name the copy")
        name, equals, file = argument.partition("=")
        if not equals or os.path.exists(argument):
            name, file = re.sub(r"\W", "_", Path(argument).name.split(".")[0]), argument
            if not name.isidentifier():
                raise UsageError(f"{argument}: give its table a name that begins with a letter: NAME={argument}")
        if name in tables:
            raise UsageError(f"{argument}: two files for the table {name!r}; name them apart, as NAME=FILE")
        tables[name] = Path(file)
    return tables


def split_list(values: Sequence[str] | None) -> list[str] | None:
    """Comma-separated values, repeated options or both, as one list."""
    if values is None:
        return None
    return [item.strip() for value in values for item in value.split(",") if item.strip()]
