"""Answers as text: what is written can be read back, for every kind of head and of score."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest

from model.alphabet import Alphabet
from model.head_config import HeadConfig
from model.predictions import Decision, Prediction
from model.scoring import PseudoLikelihood, nucleotide_log_probabilities, variant_effects
from model.structure import parse_dot_bracket
from model.structure_files import parse_bpseq, parse_ct
from raypipe.errors import UsageError
from raypipe.mlm_text import mlm_form
from raypipe.prediction_text import prediction_form
from raypipe.text_forms import Form

HAIRPIN = "GGGCAAAAGCCC"
STRUCTURE = HeadConfig("structure")
CONTACT = HeadConfig("contact", "binary")
RANGES = HeadConfig("contact", "multilabel", 2, labels=("near", "far"))
DISTANCE = HeadConfig("contact", "regression")
TYPE = HeadConfig("sequence", "multiclass", 3, labels=("tRNA", "5S", "snoRNA"))
BINDS = HeadConfig("sequence", "binary")
TAGS = HeadConfig("sequence", "multilabel", 3, labels=("a", "b", "c"))
HALF_LIFE = HeadConfig("sequence", "regression")
TWO_VALUES = HeadConfig("sequence", "regression", 2, labels=("up", "down"))
PAIRING = HeadConfig("token", "multiclass", 2, labels=("single", "paired"))
MODIFIED = HeadConfig("token", "binary")
MARKS = HeadConfig("token", "multilabel", 2)
REACTIVITY = HeadConfig("token", "regression")


def logits_of(config: HeadConfig, length: int) -> np.ndarray:
    """Random logits of one sequence."""
    shape = {"sequence": (), "token": (length,), "contact": (length, length), "structure": (length, length)}[
        config.kind
    ]
    shape = shape if config.kind == "structure" else (*shape, config.num_labels)
    values = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    return values + values.swapaxes(0, 1) if config.kind in ("contact", "structure") else values


def answer(config: HeadConfig, sequence: str = HAIRPIN, name: str = "head", **decision: Any) -> Prediction:
    return Decision(name, config, **decision).predict(logits_of(config, len(sequence)), sequence)


def hairpin() -> Prediction:
    """Four pairs around a loop, as sure as float32 is."""
    logits = np.full((12, 12), -20, np.float32)
    for i in range(4):
        logits[i, 11 - i] = logits[11 - i, i] = 20
    return Decision("structure", STRUCTURE).predict(logits, HAIRPIN)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def rows_of(config: HeadConfig, found: Prediction, sequence: str = HAIRPIN) -> list[dict[str, str]]:
    form = prediction_form({"head": config}, "tsv")
    return table(form.header + form.text("x", sequence, {"head": found}))


def object_of(config: HeadConfig, found: Prediction, sequence: str = HAIRPIN) -> Any:
    form = prediction_form({"head": config}, "jsonl")
    assert form.header == ""
    about = json.loads(form.text("x", sequence, {"head": found}))
    assert (about["id"], about["sequence"]) == ("x", sequence)
    return about["predictions"]["head"]


def whole(form: Form, *records: tuple[str, str, Any]) -> str:
    return form.header + "".join(form.text(*record) for record in records)


def test_structures_in_three_formats() -> None:
    found = {"structure": hairpin()}
    texts = {
        format: whole(
            prediction_form({"structure": STRUCTURE}, format), ("a b\n", HAIRPIN, found), ("z", HAIRPIN, found)
        )
        for format in ("dbn", "bpseq", "ct")
    }
    lines = texts["dbn"].splitlines()
    assert lines == [">a b", HAIRPIN, "((((....))))", ">z", HAIRPIN, "((((....))))"]
    pairs = parse_dot_bracket(lines[2])
    first, second = texts["bpseq"].split("# ")[1:]
    assert (first.splitlines()[0], second.splitlines()[0]) == ("a b", "z")
    assert parse_bpseq("# " + second).pairs == parse_ct("".join(texts["ct"].splitlines(True)[13:])).pairs == pairs
    assert texts["ct"].splitlines()[0].split() == ["12", "a", "b"]


def test_the_default_is_dot_bracket_of_one_structure() -> None:
    assert prediction_form({"structure": STRUCTURE}, None).header == ""
    assert prediction_form({"contact": CONTACT}, None).text("x", HAIRPIN, {"s": hairpin()}).startswith(">x\n")
    assert prediction_form({"a": STRUCTURE, "b": CONTACT}, None).header.startswith("id\tlength\ta_dot_bracket")
    assert prediction_form({"type": TYPE}, None).header == "id\tlength\tlabel\tprobability\n"
    assert prediction_form({"type": TYPE}, "tsv", header=False).header == ""


def test_structures_as_a_table_and_an_object() -> None:
    (row,) = rows_of(STRUCTURE, hairpin())
    assert row == {"id": "x", "length": "12", "dot_bracket": "((((....))))", "pairs": "4"}
    assert object_of(STRUCTURE, hairpin()) == {
        "dot_bracket": "((((....))))",
        "contacts": [[1, 12, 1.0], [2, 11, 1.0], [3, 10, 1.0], [4, 9, 1.0]],
    }


@pytest.mark.parametrize("config", [TYPE, BINDS, TAGS, HALF_LIFE, TWO_VALUES])
def test_sequence_heads(config: HeadConfig) -> None:
    found: Any = answer(config)
    (row,), about = rows_of(config, found), object_of(config, found)
    assert (row.pop("id"), row.pop("length")) == ("x", "12")
    names = dict(zip(config.label_names, found.values.tolist(), strict=True))
    if config is TYPE:
        assert row["label"] == about["label"] == found.label
        assert np.float32(row["probability"]) == np.float32(names[found.label]) == found.values.max()
    elif config is BINDS:
        assert row["positive"] == ("true" if found.positive else "false")
        assert about["positive"] is found.positive
        assert np.float32(row["probability"]) == np.float32(about["probability"]) == found.values[0]
    elif config is TAGS:
        said = row["labels"].split(",")
        assert about["labels"] == list(found.labels) == said
        assert 0 < len(said) < 3  # else the numbers below could be those of other labels
        assert [np.float32(text) for text in row["probabilities"].split(",")] == [np.float32(names[n]) for n in said]
    elif config is HALF_LIFE:
        assert np.float32(row["value"]) == np.float32(about["value"]) == found.values[0]
    else:
        assert {name: np.float32(text) for name, text in row.items()} == {
            f"value_{name}": np.float32(value) for name, value in names.items()
        }
        assert about["outputs"] == ["up", "down"]
        np.testing.assert_array_equal(np.float32(about["values"]), found.values)
    if "classes" in about:
        assert about["classes"] == list(config.labels)
        np.testing.assert_array_equal(np.float32(about["probabilities"]), found.values)


@pytest.mark.parametrize("config", [PAIRING, MODIFIED, MARKS, REACTIVITY])
def test_token_heads(config: HeadConfig) -> None:
    found: Any = answer(config)
    rows, about = rows_of(config, found), object_of(config, found)
    assert [row["id"] for row in rows] == ["x"] * 12
    assert [int(row["position"]) for row in rows] == list(range(1, 13))
    assert "".join(row["letter"] for row in rows) == HAIRPIN
    columns = list(rows[0])[3:]
    written = np.array([[np.float32(row[name]) for name in columns if name != "label"] for row in rows])
    if config is PAIRING:
        assert columns == ["label", "probability"]
        assert [row["label"] for row in rows] == about["labels"] == found.labels
        np.testing.assert_array_equal(written[:, 0], found.values.max(1))
    else:
        expected = {MODIFIED: ["probability"], MARKS: ["probability_0", "probability_1"], REACTIVITY: ["value"]}
        assert columns == expected[config]
        np.testing.assert_array_equal(written, found.values)
    listed = np.float32(about["values" if config is REACTIVITY else "probabilities"])
    np.testing.assert_array_equal(listed.reshape(found.values.shape), found.values)
    assert about.get("classes", []) == ([] if config in (MODIFIED, REACTIVITY) else list(config.label_names))


def test_contacts_of_several_labels() -> None:
    found: Any = answer(RANGES)
    rows, about = rows_of(RANGES, found), object_of(RANGES, found)
    assert list(rows[0]) == ["id", "i", "j", "score", "label"]
    assert len(rows) == len(found.i) > 10
    assert {row["label"] for row in rows} == {"near", "far"}
    for row, (i, j, score, label), place in zip(rows, about["contacts"], range(len(rows)), strict=True):
        assert (int(row["i"]), int(row["j"])) == (i, j) == (found.i[place] + 1, found.j[place] + 1)
        assert row["label"] == label == RANGES.labels[found.label[place]]
        assert np.float32(row["score"]) == np.float32(score) == found.score[place]
    assert "dot_bracket" not in about
    assert list(rows_of(DISTANCE, answer(DISTANCE))[0]) == ["id", "i", "j", "score"]


def test_several_heads_stand_side_by_side() -> None:
    heads = {"type": TYPE, "fold": STRUCTURE, "life": HALF_LIFE}
    found = {name: answer(config) for name, config in heads.items()}
    (row,) = table(whole(prediction_form(heads, "tsv"), ("x", HAIRPIN, found)))
    alone = {name: rows_of(config, found[name])[0] for name, config in heads.items()}
    assert list(row) == [
        *("id", "length", "type_label", "type_probability", "fold_dot_bracket", "fold_pairs", "life_value"),
    ]
    assert row["type_label"] == alone["type"]["label"]
    assert row["fold_dot_bracket"] == alone["fold"]["dot_bracket"]
    assert row["life_value"] == alone["life"]["value"]
    tokens = {"pairing": PAIRING, "shape": REACTIVITY}
    rows = table(whole(prediction_form(tokens, "tsv"), ("x", "ACG", {n: answer(c, "ACG") for n, c in tokens.items()})))
    assert len(rows) == 3
    assert list(rows[0])[3:] == ["pairing_label", "pairing_probability", "shape_value"]


@pytest.mark.parametrize(
    ("heads", "format", "says"),
    [
        ({"type": TYPE}, "dbn", "type gives no structure; these fit: tsv, jsonl"),
        ({"pairing": PAIRING}, "ct", "pairing gives no structure; these fit: tsv, jsonl"),
        ({"ranges": RANGES}, "bpseq", "ranges gives no structure; these fit: tsv, jsonl"),
        ({"a": STRUCTURE, "b": CONTACT}, "dbn", "of one head, not of several; these fit: tsv, jsonl"),
        ({"a": STRUCTURE, "b": PAIRING}, None, "one row per sequence, b gives one row per nucleotide"),
        ({"a": TYPE, "b": RANGES}, "tsv", "which are not one table; these fit: jsonl"),
        ({"a": DISTANCE, "b": RANGES}, "tsv", "which are not one table; these fit: jsonl"),
    ],
)
def test_what_does_not_fit_is_refused(heads: dict[str, HeadConfig], format: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prediction_form(heads, format)
    about = json.loads(
        prediction_form(heads, "jsonl").text("x", "ACGU", {name: answer(c, "ACGU") for name, c in heads.items()})
    )
    assert list(about["predictions"]) == list(heads)


def test_names_do_not_break_a_table() -> None:
    rows = table(whole(prediction_form({"type": TYPE}, "tsv"), ('a\t"b\nc', "ACGU", {"type": answer(TYPE)})))
    assert [row["id"] for row in rows] == ['a "b c']


def effects(sequence: str) -> Any:
    alphabet = Alphabet()
    ids = alphabet.encode([sequence])[0][1:-1]
    logits = np.random.default_rng(3).normal(0, 2, (len(sequence), len(alphabet))).astype(np.float32)
    return variant_effects(nucleotide_log_probabilities(logits, alphabet), ids, alphabet, "masked")


def test_variants() -> None:
    found = effects("ANG")
    rows = table(whole(mlm_form("variants", "tsv", ()), ("x", "ANG", {"variants": found})))
    assert [row["variant"] for row in rows] == ["A1C", "A1G", "A1U", "G3A", "G3C", "G3U"]
    for row in rows:
        place, alt = int(row["position"]) - 1, "ACGU".index(row["alt"])
        assert row["variant"] == f"{row['ref']}{row['position']}{row['alt']}"
        assert float(row["score"]) == pytest.approx(found.scores[place, alt], abs=1e-6)
        assert float(row["log_p_alt"]) - float(row["log_p_ref"]) == pytest.approx(float(row["score"]), abs=2e-6)
    about = json.loads(mlm_form("variants", "jsonl", ()).text("x", "ANG", {"variants": found}))
    assert (about["id"], about["sequence"], about["method"]) == ("x", "ANG", "masked")
    assert [{**{name: str(value) for name, value in row.items()}} for row in about["variants"]] == [
        {name: str(int(text)) if name == "position" else _shortened(text) for name, text in row.items() if name != "id"}
        for row in rows
    ]


def _shortened(text: str) -> str:
    """A number of six decimals as Python shows it."""
    try:
        return str(float(text))
    except ValueError:
        return text


def test_likelihoods() -> None:
    form = mlm_form("pll", "tsv", ())
    known, unknown = PseudoLikelihood(-2.5, 3, 2.3009), PseudoLikelihood(0.0, 0, float("nan"))
    rows = table(whole(form, ("x", "ACG", {"pll": known}), ("y", "NN", {"pll": unknown})))
    assert rows == [
        {"id": "x", "length": "3", "scored": "3", "pll": "-2.500000", "pseudo_perplexity": "2.300900"},
        {"id": "y", "length": "2", "scored": "0", "pll": "0.000000", "pseudo_perplexity": ""},
    ]
    about = json.loads(mlm_form("pll", "jsonl", ()).text("y", "NN", {"pll": unknown}))
    assert about == {"id": "y", "sequence": "NN", "scored": 0, "pll": 0.0, "pseudo_perplexity": None}
    assert mlm_form("pll", "tsv", (), header=False).header == ""


def test_logits() -> None:
    tokens = Alphabet().tokens
    values = np.random.default_rng(4).normal(0, 5, (4, len(tokens))).astype(np.float32)
    rows = table(whole(mlm_form("logits", "tsv", tokens), ("x", "ACGU", {"logits": values})))
    assert list(rows[0]) == ["id", "position", "letter", *tokens]
    assert "".join(row["letter"] for row in rows) == "ACGU"
    np.testing.assert_array_equal(np.array([[np.float32(row[t]) for t in tokens] for row in rows]), values)
    about = json.loads(mlm_form("logits", "jsonl", tokens).text("x", "ACGU", {"logits": values}))
    assert about["tokens"] == list(tokens)
    np.testing.assert_array_equal(np.float32(about["logits"]), values)
