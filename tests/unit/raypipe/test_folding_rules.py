"""The rules that fold without knowing structures, against slow definitions; and the program RNAfold's answers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.structure import Structure, parse_dot_bracket
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation import folding
from raypipe.evaluation.folding_rules import helix_strengths, most_pairs, strongest_helices

BONDS = {"GC": 3, "CG": 3, "AU": 2, "UA": 2, "GU": 1, "UG": 1}
SEQUENCES = st.text("ACGUN", min_size=1, max_size=24)


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_no_nested_matching_has_more_canonical_pairs(sequence: str) -> None:
    @lru_cache(None)
    def best(a: int, b: int) -> int:
        if b - a <= 4:
            return 0
        found = best(a + 1, b)
        for k in range(a + 4, b):
            if sequence[a] + sequence[k] in BONDS:
                found = max(found, 1 + best(a + 1, k) + best(k + 1, b))
        return found

    pairs = most_pairs(sequence)
    assert len(pairs) == best(0, len(sequence))
    assert all(sequence[i] + sequence[j] in BONDS and j - i > 3 for i, j in pairs)
    assert len(Structure(sequence, pairs).layers) <= 1


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_strengths_are_sums_along_helices(sequence: str) -> None:
    length = len(sequence)

    def bonds(i: int, j: int) -> int:
        i, j = min(i, j), max(i, j)
        return BONDS.get(sequence[i] + sequence[j], 0) if i >= 0 and j < length and j - i > 3 else 0

    found = helix_strengths(sequence)
    assert found.shape == (length, length)
    for i in range(length):
        for j in range(length):
            total, out, inner = bonds(i, j), 1, 1
            if total:
                while more := bonds(min(i, j) - out, max(i, j) + out):
                    total, out = total + more, out + 1
                while more := bonds(min(i, j) + inner, max(i, j) - inner) * (max(i, j) - min(i, j) > 2 * inner):
                    total, inner = total + more, inner + 1
            assert found[i, j] == total


def test_a_hairpin_is_found_whole() -> None:
    assert strongest_helices("GGGGAAAACCCC") == parse_dot_bracket("((((....))))")
    # Four strong pairs against as many weak ones that cross them.
    assert strongest_helices("GGGGAAAACCCCUUUU") == parse_dot_bracket("((((....))))....")


def test_what_cannot_pair_stays_open() -> None:
    for rule in (most_pairs, strongest_helices):
        assert rule("A") == rule("AAAAAAAA") == rule("NNNNNNNNNN") == rule("GAAC") == ()


def test_the_python_module_of_viennarna_folds_where_it_is_installed() -> None:
    pytest.importorskip("RNA")
    method = folding.vienna("auto")
    assert method is not None
    assert method.fold(["GGGGAAAACCCC", "GGGGAAAACCCCNXRY"]) == [parse_dot_bracket("((((....))))")] * 2


def _program(folder: Path, body: str) -> Path:
    """A stand-in that answers in RNAfold's form."""
    program = folder / "RNAfold"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


def test_the_answers_of_the_program_are_read(tmp_path: Path) -> None:
    given = tmp_path / "given.fa"
    program = _program(
        tmp_path,
        f"cat > {given}\nprintf '>0\\nGGGGAAAACCCC\\n((((....)))) ( -5.40)\\n>1\\nNACGN\\n..... (  0.00)\\n'",
    )
    fold = folding._vienna_program(str(program))
    assert fold(["GGGGAAAACCCC", "RACGX"]) == [parse_dot_bracket("((((....))))"), ()]
    assert given.read_text() == ">0\nGGGGAAAACCCC\n>1\nNACGN\n"


def test_a_program_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    fold = folding._vienna_program(str(_program(tmp_path, "cat > /dev/null; echo out of memory >&2; exit 3")))
    with pytest.raises(RaypipeError, match=r"RNAfold failed \(exit code 3\): out of memory"):
        fold(["ACGU"])


def test_viennarna_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if folding.find_spec("RNA") is not None:
        pytest.skip("ViennaRNA is installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert folding.vienna("auto") is None
    assert folding.vienna("none") is None
    with pytest.raises(UsageError, match="pip install ViennaRNA"):
        folding.vienna("vienna")
