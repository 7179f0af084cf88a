"""Low-rank updates: nothing at first, trained alone, folded in exactly, kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import AidoRnaConfig, CheckpointError, ModelError, load
from model.encoder import AidoRna
from model.lora import (
    TARGETS,
    LoraConfig,
    LoraLinear,
    add_lora,
    load_lora,
    lora_state,
    merge_lora,
    read_lora,
    write_lora,
)
from model.packing import Layout
from model.training import init_weights

ALL = LoraConfig(rank=4, targets=tuple(TARGETS))


def _encoder(config: AidoRnaConfig, dtype: torch.dtype = torch.float32) -> AidoRna:
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 3)
    return encoder.to(dtype).eval()


def _hidden(encoder: AidoRna) -> Tensor:
    layout = Layout.of([8, 8, 11])
    ids = torch.randint(6, 10, (layout.tokens,), generator=torch.Generator().manual_seed(1))
    return encoder(ids, layout)


def _train(encoder: AidoRna, parameters: list[torch.nn.Parameter]) -> None:
    optimizer = torch.optim.SGD(parameters, 1.0)
    for _ in range(3):
        optimizer.zero_grad()
        hidden = _hidden(encoder)
        (hidden - hidden.detach().roll(1, 0)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_is_unchanged_at_first(tiny_config: AidoRnaConfig, dtype: torch.dtype) -> None:
    encoder = _encoder(tiny_config, dtype)
    before = _hidden(encoder)
    add_lora(encoder, ALL, seed=0)
    assert torch.equal(_hidden(encoder), before)
    assert not encoder.training


def test_the_updates_alone_are_trained(tiny_config: AidoRnaConfig) -> None:
    encoder = _encoder(tiny_config)
    parameters = add_lora(encoder, LoraConfig(rank=2), seed=0)
    assert [id(p) for p in encoder.parameters() if p.requires_grad] == [id(p) for p in parameters]
    width = tiny_config.hidden_size
    assert sum(p.numel() for p in parameters) == tiny_config.num_layers * 2 * (2 * width + 2 * width)
    frozen = {name: p.clone() for name, p in encoder.named_parameters() if not p.requires_grad}
    before = _hidden(encoder).detach()
    _train(encoder, parameters)
    after = dict(encoder.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert all(p.abs().max() > 0 for p in parameters)
    assert not torch.allclose(_hidden(encoder), before, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_merging_gives_the_same_output_from_plain_maps(bias: bool) -> None:
    config = AidoRnaConfig(num_layers=2, hidden_size=32, num_heads=4, intermediate_size=48, linear_bias=bias)
    encoder = _encoder(config)
    names = list(encoder.state_dict())
    plain = _hidden(encoder).detach()
    _train(encoder, add_lora(encoder, ALL, seed=0))
    trained = _hidden(encoder).detach()
    merge_lora(encoder)
    assert list(encoder.state_dict()) == names
    assert not any(isinstance(module, LoraLinear) for module in encoder.modules())
    assert torch.allclose(_hidden(encoder), trained, atol=1e-5)
    assert (trained - plain).abs().max() > 1e-2
    with pytest.raises(ModelError, match="no LoRA"):
        merge_lora(encoder)
    add_lora(encoder, ALL, seed=1)
    assert torch.allclose(_hidden(encoder), trained, atol=1e-5)


def test_the_update_is_alpha_over_rank_times_b_a(tiny_config: AidoRnaConfig) -> None:
    encoder = _encoder(tiny_config)
    weight = encoder.get_parameter("layers.0.mlp.down.weight").clone()
    add_lora(encoder, LoraConfig(rank=2, alpha=3.0, targets=("down",)), seed=0)
    state = lora_state(encoder)
    assert set(state) == {f"layers.{i}.mlp.down.{part}" for i in range(2) for part in "AB"}
    state["layers.0.mlp.down.B"].fill_(0.5)
    merge_lora(encoder)
    change = encoder.get_parameter("layers.0.mlp.down.weight") - weight
    wanted = 1.5 * 0.5 * state["layers.0.mlp.down.A"].sum(0).expand_as(weight)
    assert torch.allclose(change, wanted, atol=1e-6)


def test_dropout_of_the_update_acts_in_training_only(tiny_config: AidoRnaConfig) -> None:
    encoder = _encoder(tiny_config)
    for parameter in add_lora(encoder, LoraConfig(dropout=0.5), seed=0):
        parameter.data.fill_(0.1)
    assert torch.equal(_hidden(encoder), _hidden(encoder))
    encoder.train()
    assert not torch.equal(_hidden(encoder), _hidden(encoder))


def test_the_seed_decides_where_it_starts(tiny_config: AidoRnaConfig) -> None:
    one, same, other = (lora_state(_wrapped(tiny_config, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(same[name], value) for name, value in one.items())
    assert not torch.equal(other["layers.0.attention.query.A"], one["layers.0.attention.query.A"])
    assert one["layers.0.attention.query.A"].abs().max() <= tiny_config.hidden_size**-0.5


def _wrapped(config: AidoRnaConfig, seed: int = 0) -> AidoRna:
    encoder = _encoder(config)
    add_lora(encoder, ALL, seed)
    return encoder


def test_a_file_brings_the_updates_to_another_copy_of_the_trunk(tiny: Path, tmp_path: Path) -> None:
    model = load(tiny)
    _train(model.module, add_lora(model.module, ALL, seed=0))
    file = tmp_path / "new" / "lora.safetensors"
    write_lora(file, model.module, ALL, trunk=model.fingerprint)
    trained = model.encode(["ACGUUGCAUCG"])[0]

    again = load(tiny)
    found = read_lora(file, trunk=again.fingerprint)
    assert found.config == ALL
    add_lora(again.module, found.config, seed=9)
    load_lora(again.module, found.tensors)
    assert (again.encode(["ACGUUGCAUCG"])[0] == trained).all()

    merge_lora(again.module)
    again.save(tmp_path / "merged")
    assert load(tmp_path / "merged").encode(["ACGUUGCAUCG"])[0] == pytest.approx(trained, abs=1e-5)
    assert [path.name for path in file.parent.iterdir()] == ["lora.safetensors"]


def test_files_that_do_not_fit_are_refused(tmp_path: Path, tiny_config: AidoRnaConfig) -> None:
    encoder = _wrapped(tiny_config)
    file = tmp_path / "lora.safetensors"
    write_lora(file, encoder, ALL, trunk="a" * 64)
    with pytest.raises(CheckpointError, match="another trunk"):
        read_lora(file, trunk="b" * 64)
    tensors = read_lora(file).tensors
    with pytest.raises(CheckpointError, match="shape"):
        load_lora(encoder, tensors | {"layers.0.mlp.up.A": torch.zeros(3, 32)})
    with pytest.raises(CheckpointError, match="missing"):
        load_lora(encoder, {})
    with pytest.raises(CheckpointError, match="no map"):
        load_lora(_encoder(tiny_config), tensors)
    save_file(load_file(file), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no file of LoRA"):
        read_lora(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        read_lora(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="bad"):
        read_lora(tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="no LoRA"):
        write_lora(file, _encoder(tiny_config), ALL, trunk="")


def test_a_second_lora_and_a_rank_wider_than_the_maps_are_refused(tiny_config: AidoRnaConfig) -> None:
    with pytest.raises(ModelError, match="already"):
        add_lora(_wrapped(tiny_config), ALL, seed=0)
    with pytest.raises(ModelError, match="rank 33"):
        add_lora(_encoder(tiny_config), LoraConfig(rank=33), seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": ("query", "head")}, "targets"),
        ({"targets": ()}, "targets"),
        ({"targets": "query"}, "targets"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        LoraConfig(**change)
