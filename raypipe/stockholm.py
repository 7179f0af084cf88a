"""Read Stockholm alignments and put their consensus structure on each sequence.

An own reader, because the job is small and has to be strict: the demo corpus is built once from a handful of
files, an error has to name file and line, and a bioinformatics library would be a dependency for one script.
Format: Eddy lab, Infernal user guide, section "File and output formats" (Stockholm 1.0, WUSS notation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RaypipeError

GAPS = frozenset("-._~")
OPENERS = {"<": ">", "(": ")", "[": "]", "{": "}"}
CLOSERS = {close: opener for opener, close in OPENERS.items()}
UNPAIRED = frozenset(".,:;_-~")


class StockholmError(RaypipeError):
    """A Stockholm file that cannot be read; the message names file and line."""


@dataclass(frozen=True)
class Alignment:
    """One alignment of a Stockholm file.

    Attributes:
        family: `#=GF ID`, or None where the file gives none.
        description: `#=GF DE`, or None.
        rows: aligned sequence by name, in file order, all as wide as `structure`.
        structure: consensus secondary structure (`#=GC SS_cons`) in WUSS notation.
    """

    family: str | None
    description: str | None
    rows: dict[str, str]
    structure: str


def read_stockholm(path: Path) -> list[Alignment]:
    """Read every alignment of a Stockholm 1.0 file, interleaved blocks joined.

    Args:
        path: plain-text file.

    Returns:
        The alignments in file order.

    Raises:
        StockholmError: not Stockholm, cut short, ragged, or without a consensus structure.
    """
    alignments: list[Alignment] = []
    lines: list[tuple[int, str]] | None = None
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if line.startswith("# STOCKHOLM 1.0"):
            if lines is not None:
                raise StockholmError(f"{path}:{number}: an alignment starts before '//' ended the last")
            lines = []
        elif line and lines is None:
            raise StockholmError(f"{path}:{number}: expected '# STOCKHOLM 1.0'; is this a Stockholm file?")
        elif line == "//":
            alignments.append(_assemble(path, number, lines or []))
            lines = None
        elif line and lines is not None:
            lines.append((number, line))
    if lines is not None:
        raise StockholmError(f"{path}: the last alignment has no closing '//'; the file seems cut short")
    if not alignments:
        raise StockholmError(f"{path}: no alignment found")
    return alignments


def _assemble(path: Path, end: int, lines: list[tuple[int, str]]) -> Alignment:
    """Join the blocks of one alignment that ends on line `end`."""
    features: dict[str, str] = {}
    rows: dict[str, str] = {}
    structure = ""
    for number, line in lines:
        fields = line.split()
        if fields[0] == "#=GF" and len(fields) >= 3:
            features.setdefault(fields[1], " ".join(fields[2:]))
        elif fields[:2] == ["#=GC", "SS_cons"] and len(fields) == 3:
            structure += fields[2]
        elif not line.startswith("#"):
            if len(fields) != 2:
                raise StockholmError(f"{path}:{number}: expected name and aligned sequence: {line[:60]}")
            rows[fields[0]] = rows.get(fields[0], "") + fields[1]
    if not structure:
        raise StockholmError(f"{path}:{end}: the alignment that ends here has no '#=GC SS_cons' line")
    for name, row in rows.items():
        if len(row) != len(structure):
            raise StockholmError(
                f"{path}:{end}: {name} has {len(row)} columns, the consensus structure has {len(structure)}"
            )
    return Alignment(features.get("ID"), features.get("DE"), rows, structure)


def pair_table(structure: str) -> list[int | None]:
    """Partner of every column of a WUSS string.

    Args:
        structure: WUSS: `<> () [] {}` nest as one tree, `A..a` to `Z..z` are pseudoknots, each letter a tree
            of its own, everything else is unpaired.

    Returns:
        For each column the index of its partner, or None.

    Raises:
        StockholmError: brackets that do not balance or a character that is not WUSS.
    """
    partners: list[int | None] = [None] * len(structure)
    stacks: dict[str, list[tuple[str, int]]] = {}
    for column, symbol in enumerate(structure):
        opens = symbol in OPENERS or "A" <= symbol <= "Z"
        closes = symbol in CLOSERS or "a" <= symbol <= "z"
        tree = symbol.upper() if symbol.isalpha() else "nested"
        if opens:
            stacks.setdefault(tree, []).append((symbol, column))
        elif closes:
            expected = CLOSERS.get(symbol, symbol.upper())
            opener, partner = stacks[tree].pop() if stacks.get(tree) else ("", -1)
            if opener != expected:
                raise StockholmError(f"column {column + 1}: '{symbol}' closes no '{expected}'")
            partners[column], partners[partner] = partner, column
        elif symbol not in UNPAIRED:
            raise StockholmError(f"column {column + 1}: '{symbol}' is not WUSS notation")
    left_open = [entry for stack in stacks.values() for entry in stack]
    if left_open:
        symbol, column = left_open[0]
        raise StockholmError(f"column {column + 1}: '{symbol}' is never closed")
    return partners


def project(row: str, structure: str, partners: list[int | None]) -> tuple[str, str]:
    """Take the gaps out of an aligned sequence, and the consensus structure along.

    Args:
        row: aligned sequence, any case, T or U.
        structure: WUSS string of the same width.
        partners: `pair_table(structure)`.

    Returns:
        The sequence (upper case, U) and its dot-bracket string, equally long. A pair that lost one side to a
        gap is opened; all nested brackets become `()`, pseudoknot letters stay.
    """
    bases: list[str] = []
    marks: list[str] = []
    for column, base in enumerate(row):
        if base in GAPS:
            continue
        partner = partners[column]
        bases.append(base.upper().replace("T", "U"))
        if partner is None or row[partner] in GAPS:
            marks.append(".")
        elif structure[column].isalpha():
            marks.append(structure[column])
        else:
            marks.append("(" if partner > column else ")")
    return "".join(bases), "".join(marks)
