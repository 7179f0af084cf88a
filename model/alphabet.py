"""The tokenizer: text to ids for a whole list of sequences at once.

Behaviour is that of multimolecule 0.0.8's RnaTokenizer (letters upper-cased, T read as U, one token per character,
`<mask>` in lower case), except that what it turns silently into `<unk>` is an error unless asked for.
Only ASCII letters are upper-cased: Unicode's rules would turn one foreign character into several nucleotides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from model.errors import CheckpointError, ModelError, SequenceError

STANDARD_TOKENS = ("<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>", *"ACGUNRYSWKMBDHV.X*-I")
"""The 26 tokens of the published checkpoints, in the order of their ids (multimolecule 0.0.8)."""

SPECIAL_TOKENS = STANDARD_TOKENS[:6]
NUCLEOTIDES = "ACGU"
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_MASK = "<mask>"
_BAD = 255


@dataclass(frozen=True)
class Tokens:
    """Tokenised sequences laid end to end.

    Attributes:
        ids: (T,) uint8, every sequence as <cls> ... <eos>.
        offsets: (S + 1,) int64, where each sequence begins in `ids`.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(S,) int64: nucleotides of each sequence, special tokens not counted."""
        return np.diff(self.offsets) - 2


@dataclass(frozen=True)
class Alphabet:
    """A vocabulary and the tables made from it.

    Attributes:
        tokens: the tokens in the order of their ids.
    """

    tokens: tuple[str, ...] = STANDARD_TOKENS

    def __post_init__(self) -> None:
        for special in SPECIAL_TOKENS:
            if special not in self.tokens:
                raise CheckpointError(f"the vocabulary has no {special}")
        if len(set(self.tokens)) != len(self.tokens):
            raise CheckpointError("the vocabulary lists a token twice")
        if len(self.tokens) >= _BAD:
            raise CheckpointError(f"a vocabulary of {len(self.tokens)} tokens is not one of single nucleotides")
        for token in self.tokens:
            if token not in SPECIAL_TOKENS and (len(token) != 1 or not "!" <= token <= "~"):
                raise CheckpointError(f"the vocabulary's token {token!r} is not a single printable character")
        if "U" not in self.tokens or "A" not in self.tokens:
            raise CheckpointError("the vocabulary lacks A or U, so it is not one of RNA")

    @classmethod
    def from_file(cls, path: Path) -> Alphabet:
        """Read vocab.txt: one token per line, the line number (from 0) is the id."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        try:
            return cls(tuple(text.splitlines()))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def to_text(self) -> str:
        """The contents of vocab.txt."""
        return "".join(f"{token}\n" for token in self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def id(self) -> dict[str, int]:
        """Token to id."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def nucleotides(self) -> np.ndarray:
        """(4,) int64: the ids of A, C, G and U, in this order."""
        for letter in NUCLEOTIDES:
            if letter not in self.id:
                raise CheckpointError(f"the vocabulary has no {letter}, so nucleotides cannot be weighed by it")
        return np.array([self.id[letter] for letter in NUCLEOTIDES])

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, _BAD, dtype=np.uint8)
        for token, number in self.id.items():
            if len(token) == 1:
                table[ord(token)] = table[ord(token.lower())] = number
        table[ord("T")] = table[ord("t")] = self.id["U"]
        return table

    def encode(self, sequences: Sequence[str | bytes], *, accept_unknown: bool = False) -> Tokens:
        """Tokenise a list of sequences.

        Args:
            sequences: texts; `<mask>` in lower case stands for a masked nucleotide.
            accept_unknown: take a character outside the alphabet as <unk> instead of refusing it.

        Returns:
            Packed ids with <cls> before and <eos> after each sequence.

        Raises:
            SequenceError: a character outside the alphabet, or the text of a special token other than <mask>.
        """
        if isinstance(sequences, str | bytes):
            raise ModelError("give a list of sequences, not one text: each of its letters would become a sequence")
        texts = [s.decode("latin-1") if isinstance(s, bytes) else s for s in sequences]
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        if not texts:
            return Tokens(np.empty(0, dtype=np.uint8), offsets)
        try:
            np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 2, out=offsets[1:])
            # Two filler letters between sequences leave exactly the room that <eos> and the next <cls> need.
            raw = _ascii_bytes("A" + "AA".join(texts) + "A")
        except TypeError:
            raise ModelError(f"a sequence must be a text, not {_first_other_type(texts)}") from None
        ids = self._table.take(np.frombuffer(raw, dtype=np.uint8))
        bad = np.flatnonzero(ids == _BAD)
        ids[offsets[:-1]] = self.id["<cls>"]
        ids[offsets[1:] - 1] = self.id["<eos>"]
        if len(bad):
            rows = np.unique(np.searchsorted(offsets, bad, side="right") - 1)
            return self._patch(texts, ids, offsets, rows, accept_unknown)
        return Tokens(ids, offsets)

    def _patch(
        self, texts: list[str], ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, accept_unknown: bool
    ) -> Tokens:
        """Replace the rows that the table could not settle by carefully tokenised ones."""
        pieces: list[np.ndarray] = []
        done = 0
        lengths = np.diff(offsets)
        for row in rows.tolist():
            content = self._encode_with_care(texts[row], row, accept_unknown)
            pieces += [ids[done : offsets[row] + 1], content]
            done = int(offsets[row + 1]) - 1
            lengths[row] = len(content) + 2
        pieces.append(ids[done:])
        np.cumsum(lengths, out=offsets[1:])
        return Tokens(np.concatenate(pieces), offsets)

    def _encode_with_care(self, text: str, index: int, accept_unknown: bool) -> np.ndarray:
        pieces: list[np.ndarray] = []
        done = 0
        for match in _SPECIAL.finditer(text):
            if match.group() != _MASK:
                raise SequenceError(
                    f"sequence {index + 1} of the list has the special token {match.group()} at position "
                    f"{match.start() + 1}; the only one a sequence may hold is <mask>",
                    index=index,
                    position=match.start() + 1,
                    character="<",
                )
            pieces += [
                self._letters(text, done, match.start(), index, accept_unknown),
                np.array([self.id[_MASK]], dtype=np.uint8),
            ]
            done = match.end()
        pieces.append(self._letters(text, done, len(text), index, accept_unknown))
        return np.concatenate(pieces)

    def _letters(self, text: str, start: int, stop: int, index: int, accept_unknown: bool) -> np.ndarray:
        ids = self._table.take(np.frombuffer(_ascii_bytes(text[start:stop]), dtype=np.uint8))
        bad = np.flatnonzero(ids == _BAD)
        if len(bad) and not accept_unknown:
            raise self._unknown(text, start + int(bad[0]), index)
        ids[bad] = self.id["<unk>"]
        return ids

    def _unknown(self, text: str, at: int, index: int) -> SequenceError:
        character = text[at]
        if text[at : at + len(_MASK)].lower() == _MASK:
            hint = "a masked nucleotide is written <mask>, in lower case"
        elif character.isspace():
            hint = "white space is not part of a sequence; remove it"
        else:
            hint = f"known are the letters {''.join(t for t in self.tokens if len(t) == 1)}, and T for U"
        return SequenceError(
            f"sequence {index + 1} of the list has the character {character!r} at position {at + 1}, which is not "
            f"in the RNA alphabet: {hint}",
            index=index,
            position=at + 1,
            character=character,
        )


def _ascii_bytes(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        # NUL is in no vocabulary and keeps one byte per character, so positions stay right.
        return re.sub(r"[^\x00-\x7f]", "\x00", text).encode("ascii")


def _first_other_type(texts: Sequence[object]) -> str:
    return next((type(t).__name__ for t in texts if not isinstance(t, str)), "that")
