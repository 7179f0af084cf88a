"""`raypipe eval structure` from the command line, on a tiny checkpoint with random heads."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from model import load
from model.structure import parse_dot_bracket
from model.structure_metrics import compare_pairs, mean_scores, pooled_scores
from raypipe.splits import part_of
from tests.integration.conftest import Cli

HAIRPIN, OTHER = "GGGGAAAACCCC", "GGGAUAUCCCAA"
KNOWN = [
    ("a", HAIRPIN, "((((....))))", "hairpins"),
    ("b", OTHER, "(((....)))..", "hairpins"),
    ("c", "GCGCAAAAGCGCAAGGUU", "((((.[[[))))..]]].", "knots"),
    ("again", HAIRPIN.lower().replace("u", "t"), "((((....))))", "knots"),
    ("differs", OTHER, "............", "hairpins"),
    ("long", "ACGU" * 20, "." * 80, "long ones"),
]
QUIET = ["--compare", "none"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "known.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "structure", "family"])
        writer.writerows(KNOWN)
    return path


def _json(cli: Cli, *arguments: object) -> dict[str, Any]:
    ran = cli("eval", "structure", *arguments, *QUIET, "--format", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_figures_are_those_of_the_model_s_own_predictions(cli: Cli, headed: Path, table: Path) -> None:
    found = _json(cli, table, "--model", headed, "--heads", "structure,contacts", "--threshold", "0.1")
    model = load(headed)
    known = [row for row in KNOWN if row[0] in ("a", "b", "c", "long")]
    for row, head in zip(found["rows"], ("structure", "contacts"), strict=False):
        said: list[Any] = model.predict([one[1] for one in known], head, threshold=0.1)[head]
        counts = [
            compare_pairs(prediction.structure.pairs, parse_dot_bracket(one[2]), len(one[1]))
            for prediction, one in zip(said, known, strict=True)
        ]
        assert sum(count.predicted for count in counts) > 0
        assert row["method"] == f"headed: {head}"
        assert (row["sequences"], row["known_pairs"]) == (4, 4 + 3 + 7)
        assert row["f1"] == pytest.approx(mean_scores(counts).f1)
        assert row["f1_shift"] == pytest.approx(mean_scores(counts).f1_shift)
        assert row["pooled_recall"] == pytest.approx(pooled_scores(counts).recall)
    names = [row["method"] for row in found["rows"]]
    assert names[2:] == ["baseline: most canonical pairs", "baseline: strongest helices"]
    assert found["methods"]["headed: structure"]["threshold"] == 0.1
    assert found["settings"]["heads"] == ["structure", "contacts"]


def test_each_sequence_counts_once_and_what_is_left_out_is_said(cli: Cli, table: Path) -> None:
    found = _json(cli, table, "--heads", "none", "--max-length", "79")
    assert found["counts"] == {
        "rows": 6,
        "rejected": 0,
        "longer than 79 nt": 1,
        "repeated": 1,
        "repeated with another structure": 1,
        "sequences": 3,
    }
    assert _json(cli, table, "--heads", "none", "--no-distinct")["counts"]["sequences"] == 6
    text = cli("eval", "structure", table, "--heads", "none", *QUIET).out
    assert "6 rows, 4 distinct sequences with known structures (1 repeated, 1 repeated with another" in text
    assert "whether a model was trained on some is not known here" in text


def test_groups_get_figures_of_their_own(cli: Cli, table: Path, tmp_path: Path) -> None:
    details = tmp_path / "details.tsv"
    ran = cli(
        "eval", "structure", table, "--heads", "none", "--by", "family", "--format", "tsv", "--details", details, *QUIET
    )
    assert ran.code == 0, ran.err
    rows = [row for row in csv.DictReader(io.StringIO(ran.out), delimiter="\t") if "helices" in row["method"]]
    assert [(row["group"], row["sequences"]) for row in rows] == [
        ("all", "4"),
        ("mean of 3 groups", "4"),
        ("hairpins", "2"),
        ("knots", "1"),
        ("long ones", "1"),
    ]
    f1 = {row["group"]: float(row["f1"]) for row in rows}
    assert f1["hairpins"] > f1["all"] > 0
    assert f1["mean of 3 groups"] == pytest.approx((f1["hairpins"] + f1["knots"] + f1["long ones"]) / 3)
    assert f1["all"] == pytest.approx((2 * f1["hairpins"] + f1["knots"] + f1["long ones"]) / 4)
    with details.open() as file:
        first = list(csv.DictReader(file, delimiter="\t"))[:3]
    assert first[0]["method"] == "known"
    assert {row["id"] for row in first} == {"a"}
    assert first[2]["structure"] == first[0]["structure"] == "((((....))))"
    assert first[2]["f1"] == "1.000000"


def test_a_split_is_that_of_finetune(cli: Cli, table: Path) -> None:
    options = ["--heads", "none", "--group-column", "family", "--test", "0.4", "--valid", "0.1"]
    shares = {"test": 0.4, "valid": 0.1}
    # A repeated sequence belongs to the part that is measured on rather than to the one that is trained on.
    wanted: dict[str, set[str]] = {"test": set(), "valid": set(), "train": set()}
    for part in wanted:
        for _, sequence, _, family in KNOWN:
            known_before = set().union(*wanted.values())
            if part_of(family, shares) == part and sequence.upper() not in known_before:
                wanted[part].add(sequence.upper())
    assert len([part for part in wanted if wanted[part]]) > 1
    for part, sequences in wanted.items():
        if sequences:
            found = _json(cli, table, *options, "--split", part)
            assert found["counts"]["sequences"] == len(sequences)
            assert found["split"] == {"part": part, "by": "family", "shares": shares, "where": None}


def test_rows_are_chosen_by_a_condition_and_by_sampling(cli: Cli, table: Path) -> None:
    assert _json(cli, table, "--heads", "none", "--where", "family = 'knots'")["counts"]["sequences"] == 2
    assert _json(cli, table, "--heads", "none", "--sample", "2")["counts"]["not in the sample"] == 2


def test_structure_files_are_read(cli: Cli, headed: Path, tmp_path: Path) -> None:
    (tmp_path / "some.dbn").write_text("".join(f">{id_}\n{seq}\n{text}\n" for id_, seq, text, _ in KNOWN[:3]))
    (tmp_path / "one.bpseq").write_text("1 G 5\n2 A 0\n3 A 0\n4 A 0\n5 C 1\n")
    found = _json(cli, tmp_path / "some.dbn", tmp_path / "one.bpseq", "--model", headed)
    assert found["rows"][0]["known_pairs"] == 4 + 3 + 7 + 1


def test_a_report_in_a_file_has_its_settings_beside_it(cli: Cli, table: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    assert cli("eval", "structure", table, "--heads", "none", "-o", report, *QUIET).code == 0
    assert "baseline: strongest helices" in report.read_text()
    assert json.loads((tmp_path / "report.txt.settings.json").read_text())["heads"] == ["none"]


def test_pseudoknots_reach_the_decoding(cli: Cli, headed: Path, table: Path) -> None:
    options = [table, "--model", headed, "--threshold", "0.01"]
    without, with_ = (_json(cli, *options, *more)["rows"][0] for more in ([], ["--pseudoknots"]))
    assert with_["predicted_pairs"] > without["predicted_pairs"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--heads", "rna_type"], 2, "structure heads and from contact heads"),
        (["--heads", "kinds"], 2, "structure heads and from contact heads"),
        (["--heads", "nothing"], 1, "no head 'nothing'"),
        (["--heads", "none", "--by", "fam"], 1, "did you mean 'family'"),
        (["--heads", "none", "--structure-column", "dots"], 1, "no column 'dots'"),
        (["--heads", "none", "--where", "family = 'x'"], 1, "no sequence with a known structure is left"),
        (["--heads", "none", "--where", "famly = 'x'"], 2, "famly"),
        (["--heads", "none", "--compare", "mfold"], 2, "mfold"),
        (["--heads", "none", "--split-column", "family"], 1, "it says train, valid or test"),
        (["--heads", "none", "--split-column", "family", "--group-column", "family"], 2, "the column decides"),
    ],
)
def test_what_does_not_fit_is_said(
    cli: Cli, headed: Path, table: Path, arguments: list[str], code: int, words: str
) -> None:
    ran = cli("eval", "structure", table, "--model", headed, *(() if "--compare" in arguments else QUIET), *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_broken_rows_are_named_unless_they_are_few(cli: Cli, table: Path) -> None:
    with table.open("a") as file:
        # As finetune takes it: no structure, and nothing wrong.
        file.write("bad,ACGUACGU,((((..)),x\nnone,ACGUACGU,NA,x\n")
    ran = cli("eval", "structure", table, "--heads", "none", *QUIET)
    assert ran.code == 1
    assert "line 8, bad" in ran.err
    assert "never closed" in ran.err
    found = _json(cli, table, "--heads", "none", "--max-rejects", "0.2")
    assert (found["counts"]["rejected"], found["counts"]["without a structure"]) == (1, 1)
    table.write_text("id,sequence,kind\na,ACGU,x\n")
    assert "name the column of the known structure with --structure-column" in cli("eval", "structure", table).err


def test_options_of_tables_are_refused_for_structure_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "some.dbn").write_text(f">a\n{HAIRPIN}\n((((....))))\n")
    ran = cli("eval", "structure", tmp_path / "some.dbn", "--heads", "none", "--by", "family", *QUIET)
    assert ran.code == 2
    assert "--by: needs a table" in ran.err
    ran = cli("eval", "structure", tmp_path / "absent.dbn", "--heads", "none", *QUIET)
    assert ran.code == 1
    assert "absent.dbn" in ran.err
    assert cli("eval", "structure").code == 2
