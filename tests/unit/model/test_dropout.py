"""Dropout of the trunk: where it acts, where it does not, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import AidoRnaConfig, Alphabet, CheckpointError, ModelError, load
from model.attention import choose_backend, sdpa_by_runs
from model.attention_training import attend_by_products
from model.checkpoint import write_checkpoint
from model.encoder import AidoRna
from model.packing import Layout
from model.training import init_weights, set_dropout

LENGTHS = [7, 7, 5, 12]


def _encoder(config: AidoRnaConfig) -> AidoRna:
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 5)
    return encoder


def _batch() -> tuple[torch.Tensor, Layout]:
    layout = Layout.of(LENGTHS)
    return torch.randint(6, 10, (layout.tokens,), generator=torch.Generator().manual_seed(3)), layout


def test_inference_of_a_checkpoint_with_dropout_is_that_of_one_without(
    tmp_path: Path, tiny_config: AidoRnaConfig, random_tensors: Callable[..., dict[str, torch.Tensor]]
) -> None:
    tensors = random_tensors(lm_head=True)
    settings = tiny_config.to_json()
    write_checkpoint(tmp_path / "without", settings, tensors, Alphabet())
    write_checkpoint(
        tmp_path / "with", settings | {"hidden_dropout": 0.1, "attention_dropout": 0.2}, tensors, Alphabet()
    )
    first, second = (load(tmp_path / name).encode(["ACGUUGCA", "GGGAAACCC"]) for name in ("without", "with"))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_saving_keeps_the_dropout_of_the_checkpoint(
    tmp_path: Path, tiny_config: AidoRnaConfig, random_tensors: Callable[..., dict[str, torch.Tensor]]
) -> None:
    settings = tiny_config.to_json() | {"hidden_dropout": 0.1, "attention_dropout": 0.2}
    write_checkpoint(tmp_path / "a", settings, random_tensors(), Alphabet())
    model = load(tmp_path / "a")
    set_dropout(model.module, 0.0, 0.0)
    model.save(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (written["hidden_dropout"], written["attention_dropout"]) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"model_type": "aido.rna", "hidden_dropout": 0.3, "attention_dropout": 0}, (0.3, 0)),
        ({"model_type": "aido.rna"}, (0.1, 0.1)),
        ({"model_type": "rnabert", "hidden_dropout_prob": 0.2}, (0.2, 0.0)),
    ],
)
def test_each_layout_has_its_names_and_defaults(data: dict[str, Any], expected: tuple[float, float]) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = AidoRnaConfig.from_json(sizes | {"vocab_size": 26} | data)
    assert (config.hidden_dropout, config.attention_dropout) == expected


@pytest.mark.parametrize("value", [1.0, -0.1, "0.1", True])
def test_what_is_no_probability_is_refused(value: Any, tiny_config: AidoRnaConfig) -> None:
    with pytest.raises(CheckpointError, match="hidden_dropout"):
        AidoRnaConfig.from_json(tiny_config.to_json() | {"hidden_dropout": value})
    with pytest.raises(ModelError, match="attention dropout"):
        set_dropout(AidoRna(tiny_config), 0.0, value)


def test_dropout_follows_the_last_linear_maps(tiny_config: AidoRnaConfig) -> None:
    """With everything dropped but the embedding, the residual stream stays the embedding."""
    encoder = _encoder(tiny_config).train()
    set_dropout(encoder, 1 - 1e-9, 0.0)
    ids, layout = _batch()
    states = list(encoder.states(ids, layout))
    assert torch.equal(states[1], states[0])
    assert torch.equal(states[-1], encoder.final_norm(states[0]))


def test_each_rate_acts_in_training_only(tiny_config: AidoRnaConfig) -> None:
    encoder = _encoder(tiny_config)
    ids, layout = _batch()
    plain = encoder.eval()(ids, layout)
    for hidden, attention in ((0.5, 0.0), (0.0, 0.5)):
        set_dropout(encoder, hidden, attention)
        assert torch.equal(encoder.eval()(ids, layout), plain)
        torch.manual_seed(1)
        one = encoder.train()(ids, layout)
        torch.manual_seed(1)
        assert torch.equal(encoder(ids, layout), one)
        torch.manual_seed(2)
        assert not torch.equal(encoder(ids, layout), one)
    set_dropout(encoder, 0.0, 0.0)
    assert torch.allclose(encoder(ids, layout), plain, atol=1e-6)


@pytest.mark.parametrize("attend", [sdpa_by_runs, attend_by_products])
def test_dropped_probabilities_are_scaled_up(attend: Callable[..., torch.Tensor]) -> None:
    """The mean over many draws is what attention gives without dropout."""
    layout = Layout.of([4])
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 4, 1, 8, generator=generator).unbind()
    torch.manual_seed(0)
    drawn = torch.stack([attend(query, key, value, layout, dropout=0.25) for _ in range(4000)])
    assert not torch.allclose(drawn[0], drawn[1])
    assert torch.allclose(drawn.mean(0), sdpa_by_runs(query, key, value, layout), atol=0.06)


def test_flash_attention_says_that_it_has_no_dropout() -> None:
    with pytest.raises(ModelError, match="attention_dropout 0"):
        choose_backend(torch.device("cuda"), torch.bfloat16, dropout=0.1)
    choose_backend(torch.device("cuda"), torch.bfloat16)
