"""Structures, their three texts, and decoding: worked examples, files as they are found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.decode import MOST_LAYERS, decode_structure
from model.errors import ModelError
from model.nested import best_nested
from model.structure import BRACKETS, Structure, parse_dot_bracket
from model.structure_files import parse_bpseq, parse_ct

KNOT = Structure("GGCAUCCAGGAUG", ((0, 6), (1, 5), (3, 11), (4, 10)))


def ladder(n: int) -> tuple[tuple[int, int], ...]:
    """n pairs of which each crosses every other."""
    return tuple((i, i + n) for i in range(n))


def test_letters_and_pairs_are_put_in_order() -> None:
    structure = Structure("acgtnTU", [(np.int64(1), np.int64(4)), (0, 6)])  # type: ignore[arg-type]
    assert structure.sequence == "ACGUNUU"
    assert structure.pairs == ((0, 6), (1, 4))
    assert structure == Structure("ACGUNUU", ((0, 6), (1, 4)))
    assert len(structure) == 7
    assert all(type(i) is int for pair in structure.pairs for i in pair)


@pytest.mark.parametrize(
    ("sequence", "pairs", "said"),
    [
        ("AC U", (), "' ' at position 3"),
        ("A\u00dfC", (), "'\u00df' at position 2"),
        (b"ACGU", (), "must be a text, not bytes"),
        ("ACGU", ((0, 4),), r"\(0, 4\) does not fit: 0 <= i < j < 4"),
        ("ACGU", ((-1, 3),), r"\(-1, 3\) does not fit"),
        ("ACGU", ((3, 0),), r"\(3, 0\) does not fit"),
        ("ACGU", ((2, 2),), r"\(2, 2\) does not fit"),
        ("ACGU", ((0, 3), (1, 3)), r"nucleotide 3 \(counted from 0\) is in two pairs, the second is \(1, 3\)"),
        ("ACGU", ((0, 2), (0, 3)), "nucleotide 0"),
        ("ACGU", ((0.0, 3.0),), "whole numbers"),
        ("ACGU", ((0, 1, 2),), "two whole numbers"),
        ("ACGU", (3,), "two whole numbers"),
    ],
)
def test_what_no_structure_can_be(sequence: str, pairs: tuple[tuple[int, int], ...], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Structure(sequence, pairs)


@pytest.mark.parametrize(
    ("text", "as_written"),
    [
        ("", ""),
        ("....", "...."),
        ("((..))(.)", "((..))(.)"),
        ("((..[[..))..]]", "((..[[..))..]]"),
        ("[[..((..]]..))", "((..[[..))..]]"),  # as many in both: the leftmost is round
        ("((..[[[..))..]]]", "[[..(((..]]..)))"),  # the layer with more pairs is round
        ("(.[.{.).].}", "(.[.{.).].}"),
        ("(.[.).].(.)", "(.[.).].(.)"),  # pairs that cross nothing are round with the rest
        ("(((.[.)))...((.]))", "(((.[.)))...((.]))"),  # one bracket against two stems
        ("AB<a{b[>}.]", "([{)(][}).]"),
    ],
)
def test_layers_are_written_in_order(text: str, as_written: str) -> None:
    assert Structure("N" * len(text), parse_dot_bracket(text)).dot_bracket == as_written


def test_thirty_layers_can_be_written_and_no_more() -> None:
    text = Structure("N" * 60, ladder(30)).dot_bracket
    assert text == "".join(kind[0] for kind in BRACKETS) + "".join(kind[1] for kind in BRACKETS)
    assert text[3:6] + text[29] == "<ABZ"
    assert parse_dot_bracket(text) == ladder(30)
    crossed = Structure("N" * 62, ladder(31))
    with pytest.raises(ModelError, match="needs 31 kinds of brackets, dot-bracket has 30"):
        _ = crossed.dot_bracket
    assert parse_bpseq(crossed.bpseq()) == crossed


def test_deep_structures_need_no_recursion() -> None:
    n = 15_000
    text = "(" * n + "." * 3 + ")" * n
    assert Structure("N" * len(text), parse_dot_bracket(text)).dot_bracket == text
    crossed = "(" * 600 + "[" * 500 + ")" * 600 + "]" * 500
    assert Structure("N" * len(crossed), parse_dot_bracket(crossed)).dot_bracket == crossed


def test_unpaired_characters() -> None:
    assert parse_dot_bracket(".(,:<_-~>Q)q") == ((1, 10), (4, 8), (9, 11))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(.)).[", r"'\)' at position 4, but no '\(' before it"),
        ("(.]", r"'\]' at position 3, but no '\['"),
        (".a.A", "'a' at position 2, but no 'A'"),
        ("..[.((.)", r"'\[' at position 3, which is never closed"),
        ("(.) (.)", "' ' at position 4, which is neither a bracket nor one of .,:_-~"),
        ("(.)\n", r"'\\n' at position 4"),
        ("(1)", "'1' at position 2"),
    ],
)
def test_dot_brackets_that_do_not_close(text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse_dot_bracket(text)


def test_bpseq_text() -> None:
    assert KNOT.bpseq() == (
        "1 G 7\n2 G 6\n3 C 0\n4 A 12\n5 U 11\n6 C 2\n7 C 1\n8 A 0\n9 G 0\n10 G 0\n11 A 5\n12 U 4\n13 G 0\n"
    )
    assert KNOT.bpseq("a\nknot ") == "# a knot\n" + KNOT.bpseq()


def test_ct_text() -> None:
    expected = """\
    5 a loop
    1 G     0     2     5     1
    2 A     1     3     0     2
    3 A     2     4     0     3
    4 A     3     5     0     4
    5 C     4     0     1     5
"""
    assert Structure("GAAAC", ((0, 4),)).ct("a  loop\r\n") == expected
    assert Structure("GAAAC", ((0, 4),)).ct() == expected.replace(" a loop", "")


def test_bpseq_as_it_is_found() -> None:
    text = (
        "\ufeffFilename: d.5.b.X.bpseq\r\nOrganism: X y\r\nAccession Number: Z\r\nCitation and so on\r\n"
        "# a note\r\n\r\n1\tg\t5 \r\n 2  a 0\r\n# in between\r\n3\u00a0T 0\r\n4 n 0\r\n5 c 1"
    )
    assert parse_bpseq(text) == Structure("GAUNC", ((0, 4),))


def test_ct_as_it_is_found() -> None:
    text = (
        "# File from a data base\n\n  5\tdG = -1.2 [initially -1.5] name\n"
        "1\tg\t0\t2\t5\t1\t0\t2\n2 a 1 3 0 11\n\n3 t 2 4 0 12\n4 n 3 5 0 13\n5 C 4 1 1\n\n"
    )
    assert parse_ct(text) == Structure("GAUNC", ((0, 4),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "bpseq: the text has no nucleotide"),
        ("# 1 A 0\n", "bpseq: the text has no nucleotide"),
        ("1 A 0\n\n2 C\n", r"line 3: expected 3 columns \(number, letter, partner\), found 2"),
        ("1 A 0\n2 C 0 0\n", "line 2: expected 3 columns"),
        ("# x\n1 A 0\n3 C 0\n", "line 3: expected nucleotide 2, found '3'"),
        ("1 A 0\nX C 0\n", "line 2: expected nucleotide 2, found 'X'"),
        ("0 A 0\n", "line 1: expected nucleotide 1, found '0'"),
        ("1 AC 0\n", "line 1: the second column must be one letter, not 'AC'"),
        ("1 A 3\n2 C 0\n", "line 1: the partner must be a number of 0..2, not '3'"),
        ("1 A 0\n2 C -1\n", "line 2: the partner must be a number of 0..2, not '-1'"),
        ("1 A 2\n2 C 0\n", "line 1: nucleotide 1 pairs with 2, but 2 pairs with none"),
        ("1 A 3\n2 C 3\n3 U 1\n", "line 2: nucleotide 2 pairs with 3, but 3 pairs with 1"),
        ("1 A 0\n2 C 2\n", "line 2: nucleotide 2 pairs with itself"),
    ],
)
def test_broken_bpseq(text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse_bpseq(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ct, line 1: must begin with the number of nucleotides"),
        ("# x\n>name 5\n", "line 2: must begin with the number of nucleotides, found '>name'"),
        ("1 x\n1 A 0 0\n", "line 2: expected 6 columns .*, found 4"),
        ("2 x\n1 A 0 2 0 1\n1 C 1 0 0 2\n", "line 3: expected nucleotide 2, found '1'"),
        ("3 x\n1 A 0 2 0 1\n2 C 1 3 0 2\n", "line 3: the text ends after 2 of 3 nucleotides"),
        ("1 x\n1 A 0 0 0 1\n1 y\n1 A 0 0 0 1\n", "line 3: goes on after the 1 nucleotides .* several structures"),
        ("2 x\n1 A 0 2 2 1\n2 C 1 0 0 2\n", "line 2: nucleotide 1 pairs with 2, but 2 pairs with none"),
    ],
)
def test_broken_ct(text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse_ct(text)


def test_known_structures(shared: Path) -> None:
    """Every text of a sample is parsed and written as an equivalent one, in all formats."""
    columns = ["id", "sequence", "structure", "n_pairs", "pseudoknot"]
    table = pq.read_table(shared / "data" / "structures.parquet", columns=columns)
    sample = table.take(np.arange(0, len(table), 61)).to_pylist()
    assert sum(row["pseudoknot"] for row in sample) > 20
    for row in sample:
        structure = Structure(row["sequence"], parse_dot_bracket(row["structure"]))
        assert len(structure.pairs) == row["n_pairs"]
        written = structure.dot_bracket
        assert len(written) == len(row["sequence"])
        assert parse_dot_bracket(written) == structure.pairs
        assert written.count("(") >= row["structure"].count("(")
        assert ("[" in written) == row["pseudoknot"]
        assert parse_bpseq(structure.bpseq(row["id"])) == structure
        assert parse_ct(structure.ct(row["id"])) == structure


def score_map(length: int, entries: dict[tuple[int, int], float], dtype: type = np.float32) -> np.ndarray:
    values = np.zeros((length, length), dtype=dtype)
    for (i, j), value in entries.items():
        values[i, j] = values[j, i] = value
    return values


def test_the_sum_decides_not_the_single_pair() -> None:
    # 0.45 alone against 0.2 + 0.3 of two pairs that cross it.
    values = score_map(14, {(2, 11): 0.95, (0, 6): 0.7, (7, 13): 0.8})
    assert decode_structure(values, "G" * 7 + "C" * 7, canonical=False).dot_bracket == "(.....)(.....)"
    values = score_map(14, {(2, 11): 0.99, (0, 6): 0.7, (7, 13): 0.75})
    assert decode_structure(values, "G" * 7 + "C" * 7, canonical=False).dot_bracket == "..(........).."


def test_pseudoknots_are_added_to_the_nested_structure() -> None:
    entries = {(0, 12): 0.9, (1, 11): 0.9, (5, 17): 0.8, (6, 16): 0.8, (2, 9): 0.6, (13, 18): 0.7, (4, 17): 0.7}
    values, sequence = score_map(20, entries), "G" * 20
    nested = decode_structure(values, sequence, canonical=False)
    assert nested.dot_bracket == "(((......).))(....)."
    knotted = decode_structure(values, sequence, canonical=False, pseudoknots=True)
    assert knotted.dot_bracket == "(((..[[..).))(..]])."


def test_noise_ends_after_some_layers() -> None:
    """So that the result can be written: 31 pairs that all cross each other have no dot-bracket."""
    values = score_map(62, dict(zip(ladder(31), np.linspace(0.9, 0.6, 31), strict=True)))
    structure = decode_structure(values, "G" * 62, canonical=False, pseudoknots=True)
    assert structure.pairs == ladder(31)[:MOST_LAYERS]
    assert structure.dot_bracket.startswith("([{<ABCDEF....")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_only_what_is_above_the_threshold_pairs(dtype: type) -> None:
    """0.3 in a map is not above a threshold of 0.3, whatever the number type rounds it to."""
    values = score_map(5, {(0, 4): 0.3}, dtype)
    for threshold in (0.3, np.float64(0.3)):
        assert decode_structure(values, "GAAAC", threshold=threshold, pseudoknots=True).pairs == ()
    assert decode_structure(values, "GAAAC", threshold=0.29).pairs == ((0, 4),)
    assert decode_structure(values, "GAAAC").pairs == ()
    assert decode_structure(score_map(5, {}, dtype), "GAAAC", threshold=0).pairs == ()


def test_whole_numbers_and_lists_are_maps_too() -> None:
    truth = score_map(5, {(0, 4): 1})
    for values in (truth.astype(bool), truth.astype(np.int8), truth.tolist()):
        assert decode_structure(values, "GAAAC").pairs == ((0, 4),)


@pytest.mark.parametrize("pair", ["AU", "UA", "GC", "CG", "GU", "UG", "at", "Tg"])
def test_canonical_pairs(pair: str) -> None:
    values = score_map(5, {(0, 4): 0.9})
    assert decode_structure(values, f"{pair[0]}AAA{pair[1]}").pairs == ((0, 4),)


@pytest.mark.parametrize("pair", ["AA", "AC", "AG", "CU", "CC", "GG", "UU", "NN", "AN", "NU", "XG"])
def test_other_pairs_only_on_request(pair: str) -> None:
    values, sequence = score_map(5, {(0, 4): 0.9}), f"{pair[0]}AAA{pair[1]}"
    assert decode_structure(values, sequence).pairs == ()
    assert decode_structure(values, sequence, canonical=False).pairs == ((0, 4),)


def test_smallest_loop() -> None:
    values = score_map(4, {(0, 3): 0.9, (0, 1): 0.8})
    assert decode_structure(values, "GCAC").pairs == ()
    assert decode_structure(values, "GCAC", min_loop=2).pairs == ((0, 3),)
    values = score_map(2, {(0, 1): 0.9})
    values[0, 0] = values[1, 1] = 1  # a nucleotide never pairs with itself
    assert decode_structure(values, "GC", min_loop=0).pairs == ((0, 1),)
    assert decode_structure(values, "GC", min_loop=1).pairs == ()


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_pair(length: int) -> None:
    structure = decode_structure(np.zeros((length, length)), "A" * length, pseudoknots=True)
    assert (structure.pairs, structure.dot_bracket) == ((), "." * length)


def test_ties_are_broken_the_same_way() -> None:
    values = np.full((30, 30), 0.75, dtype=np.float32)
    found = {decode_structure(values, "GC" * 15, pseudoknots=True).dot_bracket for _ in range(3)}
    assert len(found) == 1
    choice = best_nested(np.array([3, 3, 5]), np.array([9, 12, 10]), np.ones(3))
    assert choice.tolist() == [1, 2]
    assert best_nested(np.array([1, 1]), np.array([5, 3]), np.ones(2)).tolist() == [1]
    assert best_nested(np.array([5, 3, 4]), np.array([12, 9, 10]), np.ones(3)).tolist() == [1]


@pytest.mark.parametrize("seed", range(4))
def test_dense_maps_reach_the_best_sum(seed: int) -> None:
    """Long enough for pairs to be passed over; against the recursion in its plainest form."""
    rng = np.random.default_rng(seed)
    length, threshold = 48, [0.0, 0.2, 0.5, 0.8][seed]
    values = np.triu(rng.random((length, length)), 1)
    values += values.T
    best = np.zeros((length + 1, length + 1))
    for size in range(5, length + 1):
        for a in range(length - size + 1):
            b = a + size - 1  # the last position of the stretch
            splits = [best[a, k - 1] + best[k + 1, b - 1] + values[k, b] - threshold for k in range(a, b - 3)]
            best[a, b] = max([best[a, b - 1], *splits])
    pairs = decode_structure(values, "A" * length, threshold=threshold, canonical=False).pairs
    assert sum(values[i, j] - threshold for i, j in pairs) == pytest.approx(best[0, length - 1], abs=1e-9)


def test_as_long_as_four_contexts() -> None:
    """4096 nucleotides: one stem of 2046 pairs in a map with noise."""
    length = 4096
    values = np.zeros((length, length), dtype=np.float32)
    rng = np.random.default_rng(3)
    i, j = rng.integers(0, length, (2, 20_000))
    values[i, j] = values[j, i] = 0.5009765625
    places = np.arange(2046)
    values[places, length - 1 - places] = values[length - 1 - places, places] = 1
    structure = decode_structure(values, "G" * 2048 + "C" * 2048)
    assert structure.dot_bracket == "(" * 2046 + "...." + ")" * 2046


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((4, 5)), r"shape \(4, 5\), the sequence has 5 letters: .* shape \(5, 5\)"),
        (np.zeros((5, 5, 1)), r"shape \(5, 5, 1\)"),
        (np.zeros(5), r"shape \(5,\)"),
        (score_map(5, {(1, 3): np.nan}), r"nan at \[1, 3\]"),
        (score_map(5, {(1, 3): 2.5}), r"2.5 at \[1, 3\]; probabilities lie in 0..1, and logits become"),
        (score_map(5, {(0, 1): -1}), r"-1.0 at \[0, 1\]"),
        (score_map(5, {(0, 1): np.inf}), r"inf at \[0, 1\]"),
        (np.triu(score_map(5, {(1, 3): 0.5})), r"not symmetric: \[1, 3\] is 0.5, \[3, 1\] is 0.0; take the mean"),
        (np.zeros((5, 5), dtype=complex), "must hold numbers, not complex128"),
        (np.full((5, 5), "x"), "must hold numbers"),
    ],
)
def test_maps_that_are_none(values: np.ndarray, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        decode_structure(values, "GAAAC")


@pytest.mark.parametrize("threshold", [-0.1, 1, 1.5, float("nan")])
def test_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(ModelError, match=f"threshold must be at least 0 and below 1, not {threshold}"):
        decode_structure(np.zeros((5, 5)), "GAAAC", threshold=threshold)


@pytest.mark.parametrize("min_loop", [-1, 2.5])
def test_loops_out_of_range(min_loop: int) -> None:
    with pytest.raises(ModelError, match=f"min_loop must be a whole number from 0, not {min_loop}"):
        decode_structure(np.zeros((5, 5)), "GAAAC", min_loop=min_loop)


def test_the_callers_map_is_not_changed() -> None:
    values = score_map(5, {(0, 4): 0.9})
    values.flags.writeable = False
    assert decode_structure(values, "GAAAC").pairs == ((0, 4),)
