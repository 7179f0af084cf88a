"""What is hidden in `raypipe eval mlm`, and what the context model makes of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypipe.cleaning import md5
from raypipe.errors import InputError, RaypipeError
from raypipe.evaluation.contexts import HIDDEN, OTHER, PRIOR, ContextModel, surroundings
from raypipe.evaluation.hidden import hide, length_bin, read_task
from raypipe.evaluation.kmers import codes
from raypipe.evaluation.settings import MlmEvalSettings
from raypipe.splits import part_of

RNG = np.random.default_rng(5)
SEQUENCES = ["".join(RNG.choice(list("ACGU"), length)) for length in (40, 64, 65, 130, 600, 1100) for _ in range(5)]


def quiet(_: str) -> None:
    """Takes what is said for a person who waits."""


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = [f"s{row}\t{text}\t{'odd' if row % 2 else ''}" for row, text in enumerate(SEQUENCES)]
    path = tmp_path / "rna.tsv"
    path.write_text("\n".join(["id\tsequence\tkind", *rows, "twice\t" + SEQUENCES[0].lower() + "\todd", "bad\tMEL\t"]))
    return str(path)


def test_share_is_that_of_the_validation_of_pretraining(table: str) -> None:
    task = read_task([table], MlmEvalSettings(share=0.4), quiet)
    expected = {text for text in SEQUENCES if part_of(md5(text.encode()), {"valid": 0.4}) == "valid"}
    assert 0 < len(expected) < len(SEQUENCES)
    assert {one.sequence for one in task.asked} == expected
    assert set(task.others) == set(SEQUENCES) - expected
    wanted = {"records": 32, "refused": 1, "sequences": 30, "held_out": len(expected), "asked": len(expected)}
    assert task.counts == wanted
    assert task.refused is not None
    assert "line 33, bad" in task.refused


def test_what_is_hidden_does_not_depend_on_what_else_is_asked(table: str) -> None:
    some = read_task([table], MlmEvalSettings(share=0.5, sample=3), quiet).asked
    more = read_task([table], MlmEvalSettings(share=1), quiet).asked
    assert len(some) == 3
    by_text = {one.sequence: one for one in more}
    for one in some:
        assert one.places.tolist() == by_text[one.sequence].places.tolist()
    others = read_task([table], MlmEvalSettings(share=1, seed=1), quiet).asked
    assert any(one.places.tolist() != by_text[one.sequence].places.tolist() for one in others)


def test_hidden_letters(table: str) -> None:
    for one in read_task([table], MlmEvalSettings(share=1), quiet).asked:
        assert abs(len(one.places) - 0.15 * len(one.sequence)) < 1
        assert [one.sequence[place] for place in one.places] == ["ACGU"[code] for code in one.letters]
        assert one.text.count("<mask>") == len(one.places)
        parts = one.text.replace("<mask>", "?")
        assert len(parts) == len(one.sequence)
        assert all(a in ("?", b) for a, b in zip(parts, one.sequence, strict=True))


def test_letters_that_are_no_nucleotides_are_never_hidden() -> None:
    told = MlmEvalSettings(rate=1)
    assert hide("NANCRGNU", "0f", told)[0].tolist() == [1, 3, 5, 7]
    assert hide("NNN", "0f", told)[0].tolist() == []
    assert len(hide("ACG", "0f", MlmEvalSettings(rate=0.01))[0]) == 1


def test_groups_by_length_and_by_column(table: str) -> None:
    assert [length_bin(n) for n in (1, 64, 65, 512, 1022, 1023, 9000)] == [
        "1-64 nt",
        "1-64 nt",
        "65-128 nt",
        "257-512 nt",
        "513-1022 nt",
        "1023 nt and more",
        "1023 nt and more",
    ]
    task = read_task([table], MlmEvalSettings(share=1, by="kind"), quiet)
    kinds = {one.sequence: one.groups[1] for one in task.asked}
    assert [kinds[text] for text in SEQUENCES[:4]] == ["no type", "odd", "no type", "odd"]


def test_kinds_out_of_another_table(table: str, tmp_path: Path) -> None:
    (tmp_path / "rna.fa").write_text("".join(f">s{row} x\n{text}\n" for row, text in enumerate(SEQUENCES)))
    told = MlmEvalSettings(share=1, by="kind", annotations=Path(table))
    asked = read_task([str(tmp_path / "rna.fa")], told, quiet).asked
    assert {one.groups[1] for one in asked} == {"odd", "no type"}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (MlmEvalSettings(share=1e-9), "raise --share"),
        (MlmEvalSettings(by="nothing"), "no column 'nothing'; it has: id, sequence, kind; name another with --by"),
        (MlmEvalSettings(annotations=Path("x.tsv")), "name the column of it that is wanted with --by"),
    ],
)
def test_what_cannot_be_asked_is_refused(table: str, told: MlmEvalSettings, said: str) -> None:
    with pytest.raises(RaypipeError, match=said):
        read_task([table], told, quiet)


def test_nothing_that_can_be_hidden(tmp_path: Path) -> None:
    (tmp_path / "n.fa").write_text(">a\nNNNN\n")
    with pytest.raises(InputError, match="no sequence that is asked for has A, C, G or U"):
        read_task([str(tmp_path / "n.fa")], MlmEvalSettings(share=1), quiet)


def slow_context(training: list[str], seen: list[int], place: int, width: int) -> np.ndarray:
    """p(letter) at a place of padded codes, by looking at every place of every sequence; nothing hidden in training."""
    values = np.full(4, 0.25)
    for size in range(width + 1):
        around = seen[place - size : place] + seen[place + 1 : place + size + 1]
        counts = np.zeros(4)
        for text in training:
            letters = [OTHER] * width + codes([text])[0].tolist() + [OTHER] * width
            for here in range(width, width + len(text)):
                neighbours = letters[here - size : here] + letters[here + 1 : here + size + 1]
                if letters[here] < 4 and neighbours == around:
                    counts[letters[here]] += 1
        values = (counts + PRIOR * values) / (counts.sum() + PRIOR)
    return values


def test_context_model_counts_and_smooths_as_it_says() -> None:
    training = ["ACGUACGUNACGU", "GGCCAAGG", "A", "ACGNNACGACG"]
    model = ContextModel(training, 2, rate=1e-12, seed=0)
    letters, places = surroundings("CGUACGNA", np.array([0, 3, 4, 7]), 2)
    assert letters.tolist() == [4, 4, HIDDEN, 2, 3, HIDDEN, HIDDEN, 2, 4, HIDDEN, 4, 4]
    found = np.exp(model.log_probabilities(letters, places))
    expected = [slow_context(training, letters.tolist(), place, 2) for place in places.tolist()]
    assert found == pytest.approx(np.array(expected))
    assert found.sum(axis=1) == pytest.approx(np.ones(4))
    assert model.learned_from == sum(letter in "ACGU" for text in training for letter in text)


def test_context_model_learns_hidden_neighbours_too() -> None:
    """Of a text that repeats ACGU the letter between two hidden ones follows from those further away."""
    model = ContextModel(["ACGU" * 5000], 2, rate=0.3, seed=1)
    letters, places = surroundings("ACGUACGU", np.array([3, 4, 5]), 2)
    assert np.exp(model.log_probabilities(letters, places[1:2]))[0, 0] > 0.9


def test_context_model_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    letters, places = surroundings(SEQUENCES[10], np.arange(10, 20), 3)
    whole = ContextModel(SEQUENCES, 3, rate=1e-12, seed=0).log_probabilities(letters, places)
    monkeypatch.setattr("raypipe.evaluation.contexts._CHUNK_LETTERS", 100)
    assert np.array_equal(whole, ContextModel(SEQUENCES, 3, rate=1e-12, seed=0).log_probabilities(letters, places))
