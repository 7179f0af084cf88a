"""What a sequence may hold: one canonical form, or a reason that tells the user what to mend."""

from __future__ import annotations

import hashlib

from raypipe.records import BadRow, Record

# IUPAC nucleotide codes, and the two further letters of the AIDO.RNA vocabulary: X (any) and I (inosine).
LETTERS = b"ACGUNRYSWKMBDHVXI"
BAD = ord("!")


def _table() -> bytes:
    table = bytearray([BAD]) * 256
    for letter in LETTERS + b"T":
        canonical = ord("U") if letter == ord("T") else letter
        table[letter] = table[ord(chr(letter).lower())] = canonical
    return bytes(table)


CANONICAL = _table()
TO_DNA = bytes.maketrans(b"U", b"T")
_PROTEIN = frozenset("EFLPQZJO")


def clean(sequence: str) -> tuple[bytes, str | None]:
    """Upper case, T to U.

    Returns:
        The canonical sequence and None, or b"" and the reason why the sequence is refused.
    """
    if not sequence:
        return b"", "empty sequence"
    if sequence.isascii():
        canonical = sequence.encode("ascii").translate(CANONICAL)
        position = canonical.find(BAD)
        if position < 0:
            return canonical, None
    else:
        position = next(i for i, letter in enumerate(sequence) if not letter.isascii())
    return b"", _reason(sequence, position)


def judge(record: Record | BadRow) -> tuple[bytes, str | None]:
    """The canonical sequence and None, or b"" and why the record is refused."""
    if isinstance(record, BadRow):
        return b"", record.reason
    if not record.id:
        return b"", "no id in its header; give every record a name"
    return clean(record.sequence)


def md5(canonical: bytes) -> str:
    """RNAcentral's key of a sequence: the md5 of its upper-case DNA form, as 32 hex digits."""
    return hashlib.md5(canonical.translate(TO_DNA), usedforsecurity=False).hexdigest()


def _reason(sequence: str, position: int) -> str:
    letter = sequence[position]
    where = f"at position {position + 1}"
    if letter.isspace():
        return f"blank inside the sequence {where}; remove blanks"
    if letter.isdigit():
        return f"digit {letter!r} {where}; remove numbering"
    if letter == ">":
        return f"'>' {where}: the line break before the next record is missing (files joined without one?)"
    if letter in "-.*":
        return f"alignment character {letter!r} {where}; remove gaps"
    if letter.upper() in _PROTEIN:
        return f"letter {letter!r} {where} is no nucleotide; this looks like protein"
    return f"character {letter!r} {where} is no nucleotide code"
