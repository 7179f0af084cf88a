"""Settings that do not fit together, and what a run begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from model import load
from model.config import AidoRnaConfig
from model.encoder import count_parameters
from model.errors import ModelError
from model.registry import get
from raypipe.errors import UsageError
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import build, find_start, fresh_head
from tests.headed import make_headed
from tests.pretraining import small


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlm_weight": 0}, "nothing to learn"),
        ({"mask_share": 0.8, "random_share": 0.3}, "mask_share and random_share exceed 1 together"),
        ({"contrastive_weight": 1, "singles": 0}, "contrastive learning needs family_column with families above 0"),
        ({"type_weights": {"rRNA": 0.1}}, "type_weights needs type_column"),
        ({"family_cap": 5}, "family_cap needs family_column"),
        ({"type_column": "t", "type_weights": {"rRNA": -1}}, "must not be negative"),
        ({"type_column": "t", "type_weights": {"rRNA": 1e6}}, "nor above 1000"),
        ({"type_column": "t", "type_weights": {"rRNA": float("nan")}}, "finite number"),
        ({"epochs": float("inf")}, "finite number"),
        ({"learning_rate": 5e-6}, "final_learning_rate 1e-05 is above learning_rate 5e-06"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "gpus_per_worker 0.5: workers that train together need whole GPUs"),
        ({"hold_out_families": True}, "hold_out_families needs family_column, and clan_column"),
        ({"hold_out_families": True, "family_column": "f"}, "none where there are no clans"),
        ({"seed": 2**32}, "less than 4294967296"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"no_such_setting": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainSettings(**changes)


def test_the_defaults_are_the_recipe_of_the_model_card() -> None:
    told = PretrainSettings()
    assert (told.learning_rate, told.final_learning_rate, told.warmup_steps) == (5e-5, 1e-5, 2000)
    assert (told.weight_decay, told.epochs, told.precision) == (0.01, 6, "bfloat16")
    assert (told.mask_rate, told.mask_share, told.random_share) == (0.15, 0.8, 0.1)
    assert find_start(told).config == AidoRnaConfig(33, 1280, 20, 3392)


def test_a_fresh_model_follows_the_seed() -> None:
    first, same, other = (build(find_start(small(seed=seed)), small(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.layers[0].attention.query.weight, same.layers[0].attention.query.weight)  # type: ignore[union-attr]
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    assert first.training
    assert build(find_start(small()), small(mlm_weight=0.0, contrastive_weight=1.0)).lm_head is None


def test_a_shape_that_is_none() -> None:
    with pytest.raises(ModelError, match="hidden size 16 over 3 heads"):
        find_start(small(num_heads=3))


def test_going_on_from_a_checkpoint(tmp_path: Path) -> None:
    folder = make_headed(tmp_path / "headed")
    settings = PretrainSettings(model=str(folder), hidden_dropout=0.3)
    start = find_start(settings)
    encoder = build(start, settings)
    before = load(folder)
    shape = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    assert start.settled == {**shape, "initializer_range": 0.02}
    state = before._encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert encoder.embedding.weight.dtype == torch.float32
    assert encoder.layers[0].mlp.dropout.p == 0.3  # type: ignore[union-attr]
    # Nothing teaches the pooler.
    assert encoder.pooler is not None
    assert not any(value.requires_grad for value in encoder.pooler.parameters())
    assert not fresh_head(start, settings)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = make_headed(tmp_path / "headed")
    with pytest.raises(
        UsageError, match=r"--num-layers 2: .*headed is a checkpoint of another shape, it has num_layers 1"
    ):
        find_start(PretrainSettings(model=str(folder), num_layers=2))
    assert find_start(PretrainSettings(model=str(folder), num_layers=1)).config.num_layers == 1


@pytest.mark.parametrize("name", ["nano", "nano-gpu", "650m", "1.6b"])
def test_shipped_recipes(root: Path, name: str) -> None:
    """They are settings, of the shapes of the published models that they are called by."""
    told = PretrainSettings(**yaml.safe_load((root / f"configs/pretrain-{name}.yaml").read_text()))
    config = find_start(told).config
    if not name.startswith("nano"):
        published = get(f"aido.rna-{name}").config
        assert replace(config, initializer_range=published.initializer_range) == published
        defaults = PretrainSettings().model_dump()
        card = ("epochs", "learning_rate", "final_learning_rate", "warmup_steps", "weight_decay", "mask_rate", "seed")
        assert {field: getattr(told, field) for field in card} == {field: defaults[field] for field in card}
        assert told.shard_weights
    else:
        assert sum(count_parameters(config)[part] for part in ("encoder", "lm_head")) < 10_000_000
        assert told.hold_out_families


def test_the_recipe_for_a_gpu_is_that_of_nano_in_larger_batches(root: Path) -> None:
    nano, larger = (yaml.safe_load((root / f"configs/pretrain-nano{end}.yaml").read_text()) for end in ("", "-gpu"))
    batches = {"name", "families", "singles", "batch_tokens", "steps", "warmup_steps", "gpus_per_worker"}
    how_often = {"log_every", "valid_every", "checkpoint_every"}
    assert {name for name in nano | larger if nano.get(name) != larger.get(name)} == batches | how_often
