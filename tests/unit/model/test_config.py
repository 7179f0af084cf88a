"""Configurations of both layouts, and parameter counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model import AidoRnaConfig, CheckpointError, ModelError, registry
from model.encoder import count_parameters
from model.registry import recognise

GENBIO: dict[str, Any] = {
    "model_type": "rnabert",
    "hidden_act": "swiglu",
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "vocab_size": 16,
    "layer_norm_eps": 1e-5,
    "normalization_type": "RMSNorm",
    "add_linear_bias": False,
    "rotary_percent": 1.0,
    "position_embedding_type": "rope",
    "seq_len_interpolation_factor": None,
}


def test_genbio_fields_are_read() -> None:
    config = AidoRnaConfig.from_json(GENBIO)
    assert (config.norm, config.linear_bias, config.vocab_size, config.lm_norm_eps) == ("rmsnorm", False, 16, 1e-5)
    assert (config.head_size, config.context) == (16, 1022)


def test_multimolecule_fields_are_read_from_file_and_folder(tmp_path: Path, tiny_config: AidoRnaConfig) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config.to_json()))
    assert AidoRnaConfig.from_json(tmp_path) == AidoRnaConfig.from_json(tmp_path / "config.json") == tiny_config
    assert tiny_config.lm_norm_eps == 1e-12


def test_writing_and_reading_keeps_every_variant() -> None:
    config = AidoRnaConfig.from_json(GENBIO)
    assert AidoRnaConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "another model"),
        ({"normalization_type": "ScaleNorm"}, "ScaleNorm"),
        ({"rotary_percent": 0.5}, "rotary_percent"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type"),
        ({"hidden_size": 100, "num_attention_heads": 7}, "head size"),
        ({"num_hidden_layers": 0}, "num_layers"),
        ({"num_hidden_layers": "6"}, "num_layers"),
        ({"model_type": "aido.rna", "lm_head": {"transform": "linear"}}, "LM head"),
    ],
)
def test_other_architectures_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        AidoRnaConfig.from_json(GENBIO | change)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_dimension_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=key):
        AidoRnaConfig.from_json({k: v for k, v in GENBIO.items() if k != key})


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AidoRnaConfig.from_json(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        AidoRnaConfig.from_json(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        AidoRnaConfig.from_json(tmp_path)


COUNTS = {
    "aido.rna-650m": {
        "embedding": 33_280,
        "layer": 19_597_184,
        "attention": 6_561_280,
        "mlp_norm": 2_560,
        "gate_up": 8_690_304,
        "down": 4_343_040,
        "layers": 646_707_072,
        "final_norm": 2_560,
        "encoder": 646_742_912,
        "pooler": 1_639_680,
        "with_pooler": 648_382_592,
        "lm_head": 1_642_266,
        "masked_lm": 648_385_178,
    },
    "aido.rna-1.6b": {
        "embedding": 53_248,
        "layer": 50_229_888,
        "attention": 16_789_504,
        "mlp_norm": 4_096,
        "gate_up": 22_293_120,
        "down": 11_143_168,
        "layers": 1_607_356_416,
        "final_norm": 4_096,
        "encoder": 1_607_413_760,
        "pooler": 4_196_352,
        "with_pooler": 1_611_610_112,
        "lm_head": 4_200_474,
        "masked_lm": 1_611_614_234,
    },
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_by_component(name: str) -> None:
    assert count_parameters(registry.get(name).config) == COUNTS[name]


@pytest.mark.parametrize("name", registry.names())
def test_registry_counts_follow_from_its_dimensions(name: str) -> None:
    entry = registry.get(name)
    counts = count_parameters(entry.config)
    # The pooler belongs to multimolecule's plain class; the published count of -ss is its model with the conv head.
    head = {"aido.rna-1.6b-ss": 64 * 4097 + 2 * (2 * 64**2 + 9 * 64**2) + 64 * 9 + 1}.get(name)
    if head is not None:
        assert entry.parameters == counts["encoder"] + head
    else:
        assert entry.parameters == counts["with_pooler" if entry.multimolecule else "encoder"]


def test_registry_finds_names_and_hub_ids() -> None:
    assert registry.get("aido.rna-650m").hub_ids == ("multimolecule/aido.rna-650m", "genbio-ai/AIDO.RNA-650M")
    for name in ("AIDO.RNA-650M", "multimolecule/aido.rna-650m", "genbio-ai/AIDO.RNA-650M", "genbio-ai/GB.RNA-650M"):
        assert registry.find(name) is registry.get("aido.rna-650m")
    assert registry.find("aido.rna-7b") is None
    with pytest.raises(ModelError, match="nano"):
        registry.get("aido.rna-7b")
    with pytest.raises(ModelError, match=r"multimolecule/aido\.rna-650m"):
        registry.shipped_checkpoint("aido.rna-650m")
    assert registry.get("nano").trained


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/data/AIDO.RNA-650M-CDS/", "aido.rna-650m-cds"),
        ("genbio-ai/GB.RNA-1.6B", "aido.rna-1.6b"),
        ("aido_rna_650m_cds", "aido.rna-650m-cds"),
        ("genbio-ai/AIDO.RNA-650M@main", "aido.rna-650m"),
        ("AIDO.RNA-1M-MARS", "aido.rna-1m-mars"),
        ("650M-CDS-finetuned", None),
        ("AIDO.RNA-650M-CDS-finetuned", None),
        ("", None),
    ],
)
def test_checkpoints_are_recognised_by_name(text: str, name: str | None) -> None:
    entry = recognise(text)
    assert (entry.name if entry else None) == name
