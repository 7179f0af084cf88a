"""What a statement of strangers may take, and what is said where it takes more."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from index import duck
from index.errors import QuestionError

LONGEST = 100_000
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w./:\\-])/(?:[\w.@+=-]+/)+[\w.@+=*-]*")
# Folders in an object store, as DuckDB calls them.
_REMOTE = re.compile(rf"\b{duck.REMOTE}://(?:[^\s/'\"]+/)+")


class FenceError(QuestionError):
    """A statement went beyond what is allowed; its `code` tells in which way."""

    def __init__(self, message: str, code: str = "invalid"):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """Of one statement.

    Attributes:
        seconds: that it may take, functions that it calls included.
        rows, bytes: of an answer; more are left out, and said to be.
        memory, spill: of DuckDB, in memory and on disk, such as "1GB".
        threads: of DuckDB, for each statement.
        processes: statements at a time; others wait for as long as one may take.
        piece: queries of a function that are asked for together; between them it is looked whether the time is over.
    """

    seconds: float = 10.0
    rows: int = 10_000
    bytes: int = 64 << 20
    memory: str = "1GB"
    spill: str = "4GB"
    threads: int = 2
    processes: int = 2
    piece: int = 256

    def too_long(self) -> FenceError:
        """What took its time and more."""
        hint = "ask for less: fewer rows or queries, a condition on seq_id"
        return FenceError(f"the statement took longer than {self.seconds:g} s; {hint}", "timeout")

    def too_large(self) -> FenceError:
        """What took its memory and more."""
        hint = "ask for less: fewer rows, shorter texts and lists"
        return FenceError(f"the statement needs more memory than {self.memory}; {hint}", "too_large")


@dataclass(frozen=True)
class FencedResult:
    """An answer.

    Attributes:
        truncated: whether there were more rows, or bytes, than the limits let through.
    """

    table: pa.Table
    truncated: bool


def check_length(text: str) -> None:
    """
    Raises:
        QuestionError: a statement or condition of more than LONGEST letters.
    """
    if len(text) > LONGEST:
        raise QuestionError(f"{len(text):,} letters of SQL; at most {LONGEST:,} are read")


def bytes_of(size: str) -> int:
    """Such as 10**9 of "1GB".

    Raises:
        QuestionError: it is no size.
    """
    found = _SIZE.fullmatch(size)
    if found is None:
        raise QuestionError(f"{size!r} is no size; write it like 500MB or 2GiB")
    power = "KMGT".find(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def without_paths(text: str, root: str) -> str:
    """`text` without the folders of the server: the store is called ATLAS, of other files the last name is left."""
    # A name without a slash, as of a folder here, may be a word of the text too.
    before, behind = ("", r"(?![\w-])") if "/" in root else ("/", "(?=[/:])")
    text = re.sub(rf"(?<![\w.{before}-]){re.escape(root)}{behind}", "ATLAS", text)
    text = _REMOTE.sub(".../", text)
    return _PATH.sub(lambda found: f".../{found[0].rstrip('/').rpartition('/')[2]}", text)
