"""A secondary structure, the texts it is written in (dot-bracket, bpseq, ct), and reading dot-bracket.

The module structure_files reads the other two.
"""

from __future__ import annotations

import operator
import string
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from model.errors import ModelError
from model.nested import best_nested

Pairs = tuple[tuple[int, int], ...]

BRACKETS = ("()", "[]", "{}", "<>", *(letter + letter.lower() for letter in string.ascii_uppercase))
"""Opening and closing characters of each layer, in the order in which they are used."""

UNPAIRED = ".,:_-~"
"""Characters that mark an unpaired nucleotide: those of dot-bracket and of Infernal's WUSS notation."""

# Unicode's upper case would turn one foreign character into several nucleotides, so only ASCII letters change.
_RNA = str.maketrans(string.ascii_lowercase + "Tt", string.ascii_uppercase.replace("T", "U") + "UU")


@dataclass(frozen=True)
class Structure:
    """A sequence and which of its nucleotides pair; each pairs at most once, pairs may cross (pseudoknots).

    Attributes:
        sequence: its letters; kept in upper case, T as U.
        pairs: (i, j) with i < j, counted from 0; kept in ascending order.

    Raises:
        ModelError: a character that is no letter of a sequence, a pair outside of the sequence or not in the order
            i < j, a nucleotide in two pairs.
    """

    sequence: str
    pairs: Pairs = ()

    def __post_init__(self) -> None:
        # A frozen class is set this way; no copy with other values is ever seen.
        object.__setattr__(self, "sequence", canonical_letters(self.sequence))
        object.__setattr__(self, "pairs", _checked(self.pairs, len(self.sequence)))

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def layers(self) -> tuple[Pairs, ...]:
        """The pairs in nested layers: the most that do not cross, the most of what is left, and so on.

        Now and then this takes one layer more than another choice would.
        """
        crossing = _crossing(self.pairs)
        left = np.array(sorted(crossing), dtype=np.int64).reshape(-1, 2)
        layers: list[Pairs] = []
        while len(left):
            chosen = best_nested(left[:, 0], left[:, 1], np.ones(len(left)))
            layers.append(tuple((i, j) for i, j in left[chosen].tolist()))
            left = np.delete(left, chosen, axis=0)
        if calm := [pair for pair in self.pairs if pair not in crossing]:
            layers[:1] = [tuple(sorted(chain(calm, *layers[:1])))]
        return tuple(layers)

    @property
    def dot_bracket(self) -> str:
        """One character per nucleotide, `.` where it is unpaired.

        The notation is that of the ViennaRNA package (Hofacker et al. 1994) with the extension for pseudoknots that is
        in common use: the first of `layers` is written (), the others [] {} <> Aa Bb ... Zz.

        Raises:
            ModelError: the pairs need more layers than there are kinds of brackets, 30.
        """
        layers = self.layers
        if len(layers) > len(BRACKETS):
            raise ModelError(
                f"the structure needs {len(layers)} kinds of brackets, dot-bracket has {len(BRACKETS)}: pairs that "
                "cross this much are written as bpseq or ct"
            )
        text = ["."] * len(self.sequence)
        for (opening, closing), layer in zip(BRACKETS, layers, strict=False):
            for i, j in layer:
                text[i], text[j] = opening, closing
        return "".join(text)

    def bpseq(self, name: str | None = None) -> str:
        """The bpseq format of the Comparative RNA Web site (Cannone et al. 2002), ending with a newline.

        One line per nucleotide: its number from 1, its letter, the number of its partner or 0. A name goes before
        them as a comment line, `# name`.
        """
        head = "" if name is None else f"# {_one_line(name)}".rstrip() + "\n"
        rows = zip(self.sequence, self._partners(), strict=True)
        return head + "".join(f"{i} {letter} {partner}\n" for i, (letter, partner) in enumerate(rows, 1))

    def ct(self, title: str = "") -> str:
        """The connect format of mfold (Zuker 2003), ending with a newline.

        First line: length and title. Then one line per nucleotide: its number from 1, its letter, the numbers before
        and after it (0 at the ends), the number of its partner or 0, its number again.
        """
        n = len(self.sequence)
        lines = [f"{n:5d} {_one_line(title)}".rstrip()]
        for i, (letter, partner) in enumerate(zip(self.sequence, self._partners(), strict=True), 1):
            lines.append(f"{i:5d} {letter} {i - 1:5d} {i + 1 if i < n else 0:5d} {partner:5d} {i:5d}")
        return "\n".join(lines) + "\n"

    def _partners(self) -> list[int]:
        """Of every nucleotide, counted from 1; 0 where it has none."""
        partners = [0] * len(self.sequence)
        for i, j in self.pairs:
            partners[i], partners[j] = j + 1, i + 1
        return partners


def canonical_letters(sequence: str) -> str:
    """The sequence in upper case with T as U.

    Raises:
        ModelError: not a text, or a character that is white space or not ASCII.
    """
    if not isinstance(sequence, str):
        raise ModelError(f"the sequence of a structure must be a text, not {type(sequence).__name__}")
    for at, letter in enumerate(sequence, 1):
        if not "!" <= letter <= "~":
            raise ModelError(f"the sequence of a structure has the character {letter!r} at position {at}; remove it")
    return sequence.translate(_RNA)


def parse_dot_bracket(text: str) -> Pairs:
    """The pairs of a dot-bracket text, counted from 0, in ascending order.

    Brackets are () [] {} <> and Aa ... Zz (capital letters open), each kind nested by itself; unpaired are the
    characters of `UNPAIRED`.

    Raises:
        ModelError: a bracket without its partner or another character, with the position, counted from 1.
    """
    opening = {kind[0]: kind for kind in BRACKETS}
    closing = {kind[1]: kind for kind in BRACKETS}
    waiting: dict[str, list[int]] = {kind: [] for kind in BRACKETS}
    pairs: list[tuple[int, int]] = []
    for at, character in enumerate(text):
        if character in opening:
            waiting[opening[character]].append(at)
        elif character in closing:
            kind = closing[character]
            if not waiting[kind]:
                raise ModelError(
                    f"the dot-bracket has {character!r} at position {at + 1}, but no {kind[0]!r} before it is open"
                )
            pairs.append((waiting[kind].pop(), at))
        elif character not in UNPAIRED:
            raise ModelError(
                f"the dot-bracket has {character!r} at position {at + 1}, which is neither a bracket nor one of "
                f"{UNPAIRED} for an unpaired nucleotide"
            )
    if left := [places[0] for places in waiting.values() if places]:
        raise ModelError(f"the dot-bracket has {text[min(left)]!r} at position {min(left) + 1}, which is never closed")
    return tuple(sorted(pairs))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _checked(pairs: Iterable[tuple[int, int]], length: int) -> Pairs:
    try:
        ordered = sorted((operator.index(i), operator.index(j)) for i, j in pairs)
    except (TypeError, ValueError):
        raise ModelError("the pairs of a structure must be given as (i, j), two whole numbers each") from None
    taken: set[int] = set()
    for i, j in ordered:
        if not 0 <= i < j < length:
            raise ModelError(
                f"the pair ({i}, {j}) does not fit: 0 <= i < j < {length}, the sequence's length, must hold"
            )
        if twice := {i, j} & taken:
            raise ModelError(f"nucleotide {min(twice)} (counted from 0) is in two pairs, the second is ({i}, {j})")
        taken |= {i, j}
    return tuple(ordered)


def _crossing(pairs: Pairs) -> set[tuple[int, int]]:
    """Those of the ordered pairs that cross another one; takes linear time where there are none."""
    crossing: set[tuple[int, int]] = set()
    waiting: list[tuple[int, int]] = []
    events = sorted([(i, (i, j)) for i, j in pairs] + [(j, (i, j)) for i, j in pairs])
    for position, pair in events:
        if position == pair[0]:
            waiting.append(pair)
        elif waiting[-1] == pair:
            waiting.pop()
        else:
            # Opened after this pair and still open: they end after it.
            at = waiting.index(pair)
            crossing.update(waiting[at:])
            del waiting[at]
    return crossing
