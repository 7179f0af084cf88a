"""Settings of task heads: both JSON forms, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model import CheckpointError
from model.head_config import ACTIVATIONS, KINDS, HeadConfig

CONFIGS = [
    HeadConfig("sequence"),
    HeadConfig(
        "sequence",
        "multiclass",
        3,
        ("tRNA", "rRNA", "snoRNA"),
        pooling="mean",
        transform="nonlinear",
        transform_act="silu",
        act="tanh",
        dropout=0.1,
        bias=False,
        norm_eps=1e-5,
        threshold=0.3,
    ),
    HeadConfig("sequence", "multilabel", 2, ("coding", "nuclear"), pooling="max"),
    HeadConfig("token", "regression", 4, transform="linear"),
    HeadConfig("contact", "binary", labels=("paired",)),
    HeadConfig("structure", threshold=0.44),
]


def _json(data: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(data))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_both_forms_give_back_what_was_written(config: HeadConfig) -> None:
    assert HeadConfig.from_json(_json(config.to_json()), where="here") == config
    settings = _json({"hidden_size": 32} | config.to_multimolecule())
    for count in (None, config.num_labels):
        assert HeadConfig.from_multimolecule(settings, config.kind, count, where="here") == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_multimolecules_own_fields_say_all_that_they_can(config: HeadConfig) -> None:
    settings = _json(config.to_multimolecule())
    del settings["raypipe"]
    read = HeadConfig.from_multimolecule(settings, config.kind, config.num_labels, where="here")
    for name in ("kind", "problem", "num_labels", "labels", "transform", "act", "dropout", "bias", "norm_eps"):
        assert getattr(read, name) == getattr(config, name)
    # Transformers refuses multimolecule's problems at the top of config.json.
    assert "problem_type" not in settings
    assert (read.pooling, read.threshold) == ("pooler", None)


def test_several_heads_stand_beside_each_other() -> None:
    token, contact = HeadConfig("token", "regression", 4), HeadConfig("contact", "binary")
    heads = token.to_multimolecule()["raypipe"]["heads"] | contact.to_multimolecule()["raypipe"]["heads"]
    settings = token.to_multimolecule() | {"raypipe": {"heads": heads}}
    assert HeadConfig.from_multimolecule(settings, "token", 4, where="here") == token
    assert HeadConfig.from_multimolecule(settings, "contact", 1, where="here") == contact


def test_fields_of_a_foreign_checkpoint() -> None:
    top = {"hidden_size": 128, "num_labels": 5, "problem_type": "multiclass", "head": None, "id2label": None}
    assert HeadConfig.from_multimolecule(top, "token", 5, where="here") == HeadConfig("token", "multiclass", 5)
    head = {"num_labels": 3, "problem_type": "multilabel", "hidden_size": 128, "transform_act": None, "loss_weight": 2}
    both = HeadConfig.from_multimolecule(top | {"head": head}, "sequence", where="here")
    assert both == HeadConfig("sequence", "multilabel", 3)
    hugging = {"problem_type": "single_label_classification", "id2label": {"1": "b", "0": "a", "2": "c"}}
    names = HeadConfig.from_multimolecule(hugging, "sequence", 3, where="here")
    assert (names.problem, names.labels) == ("multiclass", ("a", "b", "c"))
    nothing = HeadConfig.from_multimolecule({}, "contact", 2, where="here")
    assert (nothing.problem, nothing.num_labels, nothing.label_names) == (None, 2, ("0", "1"))


def test_names_of_labels() -> None:
    default = {"num_labels": 2, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert HeadConfig.from_multimolecule(default, "token", where="here").labels == ()
    # One output with a name for no and one for yes: its name is that of yes.
    answer = {"num_labels": 1, "id2label": {"0": "unpaired", "1": "paired"}}
    assert HeadConfig.from_multimolecule(answer, "contact", where="here").label_names == ("paired",)


def test_a_structure_head_is_binary_whatever_the_fields_say() -> None:
    settings = {"num_labels": 3, "problem_type": "regression", "head": {"dropout": 0.1}}
    assert HeadConfig.from_multimolecule(settings, "structure", where="here") == HeadConfig("structure", "binary")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "atom"}, "atom"),
        ({"problem": "ranking"}, "ranking"),
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": True}, "num_labels"),
        ({"num_labels": "2"}, "num_labels"),
        ({"pooling": "min"}, "min"),
        ({"kind": "token", "pooling": "mean"}, "only a sequence head"),
        ({"transform": "quadratic"}, "quadratic"),
        ({"transform_act": "gelu_fast"}, "gelu_fast"),
        ({"act": "softmax"}, "softmax"),
        ({"bias": 1}, "bias"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"threshold": 1.5}, "probability"),
        ({"threshold": "0.5"}, "probability"),
        ({"labels": ["a", "b"]}, "2 names"),
        ({"labels": "a"}, "names"),
        ({"labels": [1]}, "names"),
        ({"num_labels": 2, "labels": ["a", "a"]}, "one name"),
        ({"problem": "binary", "num_labels": 2}, "multilabel"),
        ({"problem": "multiclass"}, "binary"),
        ({"kind": "structure", "num_labels": 2}, "one output"),
        ({"kind": "structure", "problem": "regression"}, "binary"),
        ({"kind": "structure", "transform": "linear"}, "fixed form"),
        ({"hidden_size": 4}, "unknown field"),
    ],
)
def test_unknown_and_contradicting_values_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        HeadConfig.from_json({"kind": "sequence"} | change, where="heads/x.safetensors")
    assert str(caught.value).startswith("heads/x.safetensors: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head": {"kernel": 3}}, "'kernel'"),
        ({"head": "token"}, "no JSON object"),
        ({"head": {"hidden_size": 64}, "hidden_size": 32}, "another width"),
        ({"num_labels": 3}, "3 labels, its tensors have 2"),
        ({"problem_type": "ranking"}, "ranking"),
        ({"head": {"transform": "nonlinear", "transform_act": None}}, "transform_act"),
        ({"id2label": {"a": "b", "b": "c"}}, "numbers"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "3 names"),
        ({"raypipe": {"heads": {"token": {"kind": "contact"}}}}, "describes a contact head"),
        ({"raypipe": {"heads": {"token": {"labels": []}}}}, "kind is not given"),
        ({"raypipe": {"heads": {"token": {"kind": "token", "num_labels": 5}}}}, "5 labels"),
    ],
)
def test_fields_of_config_json_that_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        HeadConfig.from_multimolecule(settings, "token", 2, where="config.json")
    assert str(caught.value).startswith("config.json")


def test_kinds_and_activations_are_plain_names() -> None:
    assert KINDS == ("sequence", "token", "contact", "structure")
    assert len(set(ACTIVATIONS)) == len(ACTIVATIONS)
