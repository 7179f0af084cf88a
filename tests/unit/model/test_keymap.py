"""The table of names: one to one in both directions, strict about everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model import AidoRnaConfig, CheckpointError
from model.config import Layout
from model.encoder import AidoRna
from model.keymap import PREFIXES, expand, find_prefix, match


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layout", "prefix"), [*(("multimolecule", p) for p in PREFIXES), ("genbio", "")])
def test_names_map_one_to_one(tiny_config: AidoRnaConfig, layout: Layout, prefix: str, norm: str, bias: bool) -> None:
    config = replace(tiny_config, norm=norm, linear_bias=bias)
    entries = expand(config, layout, prefix)
    assert len({e.ours for e in entries}) == len({e.theirs for e in entries}) == len(entries)
    # Exactly the parameters that the module has, plus the decoder's bias, a second name of lm_head.bias.
    module = AidoRna(config, pooler=layout == "multimolecule", lm_head=True, tied=False).state_dict()
    assert {e.ours for e in entries} == {*module, "lm_head.decoder.bias"}
    assert all(tuple(module[e.ours].shape) == e.shape for e in entries if e.ours in module)
    found = match([e.theirs for e in entries], config, layout, prefix)
    assert {key: entry.ours for key, entry in found.entries.items()} == {e.theirs: e.ours for e in entries}
    assert not found.dropped
    assert not found.absent
    assert find_prefix([e.theirs for e in entries]) == (layout, prefix)


def test_the_gate_is_the_branch_with_silu(tiny_config: AidoRnaConfig) -> None:
    names = {layout: {e.ours: e.theirs for e in expand(tiny_config, layout)} for layout in ("multimolecule", "genbio")}
    assert names["multimolecule"]["layers.0.mlp.gate.weight"] == "encoder.layer.0.intermediate.dense.weight"
    assert names["multimolecule"]["layers.0.mlp.up.weight"] == "encoder.layer.0.intermediate.gate.weight"
    assert names["genbio"]["layers.0.mlp.gate.weight"] == "bert.encoder.layer.0.mlp.gate_proj.weight"


def _names(config: AidoRnaConfig) -> list[str]:
    return [e.theirs for e in expand(config, "multimolecule", "aido_rna.")]


@pytest.mark.parametrize(
    "key",
    [
        "aido_rna.encoder.layer.0.attention.self.query.scale",
        "aido_rna.encoder.layer.2.layer_norm.weight",
        "encoder.layer.0.layer_norm.weight",
        "classifier.weight",
        "sequence_head",
    ],
)
def test_an_unknown_name_is_an_error(tiny_config: AidoRnaConfig, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown tensor '{key}'"):
        match([*_names(tiny_config), key], tiny_config, "multimolecule", "aido_rna.")


def test_dropped_names_have_a_reason_and_heads_are_told_apart(tiny_config: AidoRnaConfig) -> None:
    dropped = ["aido_rna.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"]
    heads = [
        "sequence_head.decoder.weight",
        "token_head.decoder.bias",
        "contact_head.decoder.weight",
        "ss_head.convnet.0.conv1.weight",
    ]
    found = match([*_names(tiny_config), *dropped, *heads], tiny_config, "multimolecule", "aido_rna.")
    assert list(found.dropped) == dropped
    assert all(found.dropped.values())
    assert list(found.heads) == heads


def test_missing_names(tiny_config: AidoRnaConfig) -> None:
    names = _names(tiny_config)
    for entry in expand(tiny_config, "multimolecule", "aido_rna."):
        rest = [name for name in names if name != entry.theirs]
        if entry.optional:
            match(rest, tiny_config, "multimolecule", "aido_rna.")
        else:
            with pytest.raises(CheckpointError, match="missing tensor") as caught:
                match(rest, tiny_config, "multimolecule", "aido_rna.")
            assert entry.theirs in str(caught.value)
    neither = [name for name in names if name not in ("lm_head.bias", "lm_head.decoder.bias")]
    with pytest.raises(CheckpointError, match=r"missing tensor lm_head\.bias"):
        match(neither, tiny_config, "multimolecule", "aido_rna.")


def test_heads_may_be_absent_as_a_whole(tiny_config: AidoRnaConfig) -> None:
    bare = [name for name in _names(tiny_config) if "pooler" not in name and "lm_head" not in name]
    assert match(bare, tiny_config, "multimolecule", "aido_rna.").parts == {"encoder"}


def test_files_of_something_else() -> None:
    with pytest.raises(CheckpointError, match="no token embedding"):
        find_prefix(["wte.weight"])
    with pytest.raises(CheckpointError, match="more than one"):
        find_prefix(["embeddings.word_embeddings.weight", "model.embeddings.word_embeddings.weight"])
