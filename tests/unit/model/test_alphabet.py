"""The tokenizer: ids, errors, the checkpoint's own vocabulary."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from model import Alphabet, CheckpointError, ModelError, SequenceError
from model.alphabet import STANDARD_TOKENS


def test_every_letter_has_its_published_id() -> None:
    tokens = Alphabet().encode(["ACGUNRYSWKMBDHV.X*-I"])
    assert tokens[0].tolist() == [1, *range(6, 26), 2]
    assert len(STANDARD_TOKENS) == 26


def test_sequences_lie_end_to_end() -> None:
    tokens = Alphabet().encode(["ACGU", "", "t", b"gG"])
    assert [tokens[i].tolist() for i in range(4)] == [[1, 6, 7, 8, 9, 2], [1, 2], [1, 9, 2], [1, 8, 8, 2]]
    assert tokens.lengths.tolist() == [4, 0, 1, 2]
    assert len(Alphabet().encode([])) == 0


def test_masks_anywhere() -> None:
    tokens = Alphabet().encode(["AC", "<mask>", "A<mask><mask>c", "GU", "<mask>A"])
    assert [tokens[i].tolist() for i in range(5)] == [
        [1, 6, 7, 2],
        [1, 4, 2],
        [1, 6, 4, 4, 7, 2],
        [1, 8, 9, 2],
        [1, 4, 6, 2],
    ]
    assert tokens.lengths.tolist() == [2, 1, 4, 2, 2]


@pytest.mark.parametrize(
    ("text", "character", "position", "words"),
    [
        ("ACG U", " ", 4, "white space"),
        ("ACGU\r", "\r", 5, "white space"),
        ("1ACG", "1", 1, "RNA alphabet"),
        ("MKLV", "L", 3, "RNA alphabet"),
        ("AC?", "?", 3, "RNA alphabet"),
        ("AC|", "|", 3, "RNA alphabet"),
        ("AC\u00e9G", "\u00e9", 3, "RNA alphabet"),
        ("A\u4e2dC", "\u4e2d", 2, "RNA alphabet"),
        ("A\x00C", "\x00", 2, "RNA alphabet"),
        ("AC<MASK>G", "<", 3, "lower case"),
        ("A<mask>C>", ">", 9, "RNA alphabet"),
        ("<mask>A<cls>", "<", 8, "special token <cls>"),
        ("<pad>", "<", 1, "special token <pad>"),
        (b"AC\xe9G", "\u00e9", 3, "RNA alphabet"),
    ],
)
def test_what_would_become_unknown_is_an_error(text: str | bytes, character: str, position: int, words: str) -> None:
    with pytest.raises(SequenceError, match=words) as caught:
        Alphabet().encode(["ACGU", "<mask>", text, "ACG"])
    error = caught.value
    assert (error.index, error.character, error.position) == (2, character, position)
    assert "sequence 3 " in str(error)
    assert f"position {position}" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.index, again.position) == (str(error), 2, position)


def test_unknown_characters_on_request() -> None:
    alphabet = Alphabet()
    ids = alphabet.encode(["A C\u00e9", "<MASK>", "A<mask>?"], accept_unknown=True)
    assert ids[0].tolist() == [1, 6, 3, 7, 3, 2]
    assert ids[1].tolist() == [1, 3, 16, 6, 13, 15, 3, 2]
    assert ids[2].tolist() == [1, 6, 4, 3, 2]
    with pytest.raises(SequenceError, match="<eos>"):
        alphabet.encode(["A<eos>"], accept_unknown=True)


def test_one_text_instead_of_a_list() -> None:
    with pytest.raises(ModelError, match="list of sequences"):
        Alphabet().encode("ACGU")
    with pytest.raises(ModelError, match="not int"):
        Alphabet().encode(["ACGU", 5])  # type: ignore[list-item]
    with pytest.raises(ModelError, match="not list"):
        Alphabet().encode(["ACGU", ["A"]])  # type: ignore[list-item]


def test_the_checkpoints_own_vocabulary_counts(tmp_path: Path) -> None:
    # The 28 tokens of multimolecule 0.2.2, which number the tail differently.
    tokens = [*STANDARD_TOKENS[:21], "I", "X", "|", ".", "*", "-", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    alphabet = Alphabet.from_file(tmp_path / "vocab.txt")
    assert alphabet.encode(["ixI|.*-?t"])[0].tolist() == [1, 21, 22, 21, 23, 24, 25, 26, 27, 9, 2]
    assert alphabet.to_text().split() == tokens
    with pytest.raises(SequenceError):
        alphabet.encode(["A\u00e9"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A\nC\nG\nU\n", "<pad>"),
        ("\n".join([*STANDARD_TOKENS, "A"]), "twice"),
        ("\n".join([*STANDARD_TOKENS, "AA"]), "'AA'"),
        ("\n".join([*STANDARD_TOKENS, ""]) + "\n", "''"),
        ("\n".join(STANDARD_TOKENS[:9]), "lacks"),
    ],
)
def test_vocabularies_that_are_not_of_rna(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        Alphabet.from_file(tmp_path / "vocab.txt")
