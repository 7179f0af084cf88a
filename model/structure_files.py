"""Reading bpseq and ct files, as they are found in the wild."""

from __future__ import annotations

from collections.abc import Iterator

from model.errors import ModelError
from model.structure import Structure


def parse_bpseq(text: str) -> Structure:
    """Read one structure in the format of `Structure.bpseq`.

    Columns may be parted by any white space. Empty lines and lines that begin with # are passed over, and so are
    lines before the first nucleotide that do not begin with a number (the Comparative RNA Web site's files have four).

    Raises:
        ModelError: with the number of the line.
    """
    rows: list[tuple[int, str, str]] = []
    for number, fields in _lines(text):
        if not rows and not _is_number(fields[0]):
            continue
        if len(fields) != 3:
            raise ModelError(f"bpseq, line {number}: expected 3 columns (number, letter, partner), found {len(fields)}")
        _check_count(fields[0], len(rows) + 1, f"bpseq, line {number}")
        rows.append((number, fields[1], fields[2]))
    if not rows:
        raise ModelError("bpseq: the text has no nucleotide")
    return _assemble(rows, "bpseq")


def parse_ct(text: str) -> Structure:
    """Read one structure in the format of `Structure.ct`.

    Columns may be parted by any white space, further columns are passed over, and so are empty lines and lines that
    begin with #. The numbers of the neighbours and the last column are not looked at.

    Raises:
        ModelError: with the number of the line; also where a second structure follows.
    """
    lines = _lines(text)
    number, head = next(lines, (1, [""]))
    if not _is_number(head[0]):
        raise ModelError(f"ct, line {number}: must begin with the number of nucleotides, found {head[0]!r}")
    length = int(head[0])
    rows: list[tuple[int, str, str]] = []
    for number, fields in lines:
        if len(rows) == length:
            raise ModelError(
                f"ct, line {number}: goes on after the {length} nucleotides that the first line names; a file with "
                "several structures must be cut into one for each"
            )
        if len(fields) < 5:
            raise ModelError(
                f"ct, line {number}: expected 6 columns (number, letter, before, after, partner, number), "
                f"found {len(fields)}"
            )
        _check_count(fields[0], len(rows) + 1, f"ct, line {number}")
        rows.append((number, fields[1], fields[4]))
    if len(rows) < length:
        raise ModelError(f"ct, line {number}: the text ends after {len(rows)} of {length} nucleotides")
    return _assemble(rows, "ct")


def _assemble(rows: list[tuple[int, str, str]], form: str) -> Structure:
    """A structure from the line number, letter and partner of every nucleotide."""
    partners: list[int] = []
    for number, letter, partner in rows:
        if len(letter) != 1:
            raise ModelError(f"{form}, line {number}: the second column must be one letter, not {letter!r}")
        if not _is_number(partner) or int(partner) > len(rows):
            raise ModelError(f"{form}, line {number}: the partner must be a number of 0..{len(rows)}, not {partner!r}")
        partners.append(int(partner))
    for i, ((number, _, _), partner) in enumerate(zip(rows, partners, strict=True), 1):
        if partner == i:
            raise ModelError(f"{form}, line {number}: nucleotide {i} pairs with itself")
        if partner and partners[partner - 1] != i:
            raise ModelError(
                f"{form}, line {number}: nucleotide {i} pairs with {partner}, but {partner} pairs with "
                f"{partners[partner - 1] or 'none'}"
            )
    pairs = tuple((i, partner - 1) for i, partner in enumerate(partners) if partner > i + 1)
    return Structure("".join(letter for _, letter, _ in rows), pairs)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and columns of every line that is neither empty nor a comment."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            yield number, fields


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit()


def _check_count(field: str, expected: int, where: str) -> None:
    if not _is_number(field) or int(field) != expected:
        raise ModelError(f"{where}: expected nucleotide {expected}, found {field!r}")
