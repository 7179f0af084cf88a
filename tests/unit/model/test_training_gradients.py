"""Fresh weights, and the gradients of the packed trunk against one that is written out densely."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import AidoRnaConfig, ModelError
from model.attention import ROTARY_BASE, Backend, Recorder, choose_backend, sdpa_by_runs
from model.attention_blocks import attend_by_blocks
from model.attention_training import attend_by_products
from model.encoder import AidoRna, Block
from model.packing import Layout
from model.training import init_weights, look_at_neighbours, set_dropout

LENGTHS = [9, 9, 4, 13, 6]
CONFIG = AidoRnaConfig(num_layers=2, hidden_size=16, num_heads=2, intermediate_size=24)


def _encoder(config: AidoRnaConfig = CONFIG, dtype: torch.dtype = torch.float64) -> AidoRna:
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 11)
    with torch.no_grad():
        # Larger than fresh weights, so that every part of the arithmetic matters.
        for parameter in encoder.parameters():
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    return encoder.to(dtype).train()


def _batch() -> tuple[Tensor, Layout, Tensor]:
    """Ids, layout, and the tokens that count in the loss."""
    layout = Layout.of(LENGTHS)
    ids = torch.randint(6, 10, (layout.tokens,), generator=torch.Generator().manual_seed(2))
    return ids, layout, torch.arange(layout.tokens) % 3 == 0


def _loss(encoder: AidoRna) -> Tensor:
    ids, layout, chosen = _batch()
    return F.cross_entropy(encoder.logits(encoder(ids, layout)[chosen]).float(), ids[chosen])


def _gradients(encoder: AidoRna) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    assert set(found) == {name for name, _ in encoder.named_parameters()}
    return found


def _dense_loss(encoder: AidoRna) -> Tensor:
    """The same loss from a padded batch with a mask, every step written out."""
    ids, layout, chosen = _batch()
    longest, rows = layout.longest, ids.split(LENGTHS)
    padded = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])
    real = torch.stack([torch.arange(longest) < len(row) for row in rows])
    heads, size = CONFIG.num_heads, CONFIG.head_size
    frequencies = 1.0 / ROTARY_BASE ** (torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(longest, dtype=torch.float32), frequencies).double()
    cosine, sine = angles.cos(), angles.sin()

    def turn(x: Tensor) -> Tensor:
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)

    x = encoder.embedding(padded)
    for block in encoder.layers:
        assert isinstance(block, Block)
        y = block.attention_norm(x)
        q, k, v = (
            linear(y).unflatten(-1, (heads, size)).transpose(1, 2)
            for linear in (block.attention.query, block.attention.key, block.attention.value)
        )
        scores = turn(q) @ turn(k).transpose(-1, -2) / size**0.5
        p = scores.masked_fill(~real[:, None, None], -torch.inf).softmax(-1)
        x = x + block.attention.output((p @ v).transpose(1, 2).flatten(-2))
        y = block.mlp_norm(x)
        x = x + block.mlp.down(F.silu(block.mlp.gate(y)) * block.mlp.up(y))
    hidden = encoder.final_norm(x)[real]
    return F.cross_entropy(encoder.logits(hidden[chosen]).float(), ids[chosen])


def test_gradients_are_those_of_a_padded_dense_model() -> None:
    packed, dense = _encoder(), _encoder()
    first, second = _loss(packed), _dense_loss(dense)
    first.backward()
    second.backward()
    assert torch.allclose(first, second, rtol=1e-6)
    wanted = _gradients(dense)
    for name, found in _gradients(packed).items():
        assert torch.allclose(found, wanted[name], rtol=1e-4, atol=1e-6 * float(wanted[name].abs().max())), name
        assert found.abs().max() > 0, name


def test_training_and_inference_compute_the_same() -> None:
    encoder = _encoder(dtype=torch.float32)
    ids, layout, _ = _batch()
    with torch.inference_mode():
        without = encoder(ids, layout)
    assert torch.equal(encoder(ids, layout), without)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_activations_give_the_same_gradients(dropout: float) -> None:
    plain, twice = _encoder(), _encoder()
    twice.checkpoint_activations = True
    losses = []
    for encoder in (plain, twice):
        set_dropout(encoder, dropout, dropout)
        torch.manual_seed(4)
        loss = _loss(encoder)
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(losses[0], losses[1])
    wanted = _gradients(plain)
    for name, found in _gradients(twice).items():
        assert torch.equal(found, wanted[name]), name


def test_checkpointing_keeps_fewer_activations() -> None:
    """Counted as the tensors that autograd saves during the forward pass."""

    def saved(twice: bool) -> int:
        encoder = _encoder(dataclasses.replace(CONFIG, num_layers=6), torch.float32)
        encoder.checkpoint_activations = twice
        numbers = 0

        def count(x: Tensor) -> Tensor:
            nonlocal numbers
            numbers += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            _loss(encoder)
        return numbers

    assert saved(True) < saved(False) / 3


@pytest.mark.parametrize("attend", [sdpa_by_runs, attend_by_products])
def test_both_kernels_have_the_same_gradients(attend: Backend) -> None:
    _, layout, _ = _batch()
    generator = torch.Generator().manual_seed(6)
    query, key, value, weight = torch.randn(4, layout.tokens, 2, 8, generator=generator, dtype=torch.float64)
    expected, found = [], []
    for kernel, gradients in ((_plain_attention, expected), (attend, found)):
        inputs = [x.clone().requires_grad_() for x in (query, key, value)]
        (kernel(inputs[0], inputs[1], inputs[2], layout) * weight).sum().backward()
        gradients += [x.grad for x in inputs]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(expected, found, strict=True))


def test_half_precision_on_the_cpu_trains_by_plain_products() -> None:
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.bfloat16, gradients=True) is attend_by_products
    for dtype in (torch.float32, torch.float64):  # the second in these tests, which so check the kernel of the first
        assert choose_backend(cpu, dtype, gradients=True) is sdpa_by_runs
    assert choose_backend(cpu, torch.bfloat16) is attend_by_blocks


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    parts = []
    for q, k, v in zip(*(x.split(list(layout.lengths)) for x in (query, key, value)), strict=True):
        p = torch.einsum("inh,jnh->nij", q, k) / q.shape[-1] ** 0.5
        parts.append(torch.einsum("nij,jnh->inh", p.softmax(-1), v))
    return torch.cat(parts)


def test_bfloat16_autocast_trains() -> None:
    encoder = _encoder(dtype=torch.float32)
    exact = _loss(encoder).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(encoder)
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.02)
    assert loss.item() != exact
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in _gradients(encoder).values())


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_few_steps_lower_the_loss(norm: str) -> None:
    config = dataclasses.replace(CONFIG, norm=norm, linear_bias=norm == "layernorm")
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 1)
    optimizer = torch.optim.AdamW(encoder.train().parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = _loss(encoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(np.log(config.vocab_size), rel=0.05)
    assert losses[-1] < 0.5


def test_fresh_weights_are_as_multimolecule_starts_them() -> None:
    config = AidoRnaConfig(num_layers=1, hidden_size=256, num_heads=4, intermediate_size=512)
    encoder = AidoRna(config, lm_head=True, pooler=True)
    init_weights(encoder, 0)
    for name, value in encoder.state_dict().items():
        if value.dim() == 2:
            rest = value[1:] if name == "embedding.weight" else value
            assert rest.std() == pytest.approx(config.initializer_range, rel=0.05), name
        else:
            assert (value == float("norm" in name and name.endswith("weight"))).all(), name
    assert (encoder.embedding.weight[0] == 0).all()


def test_the_seed_decides_the_weights() -> None:
    one, same, bare, other = (AidoRna(CONFIG, lm_head=head) for head in (True, True, False, True))
    for encoder, seed in ((one, 1), (same, 1), (bare, 1), (other, 2)):
        init_weights(encoder, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in bare.state_dict().items())
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    # Written down, so that a recipe gives the same start on every machine and with every torch.
    assert one.embedding.weight[1, 0].item() == pytest.approx(0.02 * np.random.RandomState(1).standard_normal(17)[16])
    with pytest.raises(ModelError, match="seed"):
        init_weights(one, -1)


@pytest.mark.parametrize("size", [32, 64])
def test_heads_that_begin_at_neighbours(size: int) -> None:
    """Most attention of head h lies on the place h - N/2 away, wherever in the sequence; above of every other head."""
    heads = 4
    config = dataclasses.replace(CONFIG, num_heads=heads, hidden_size=heads * size)
    encoder = AidoRna(config)
    init_weights(encoder, 0)
    look_at_neighbours(encoder)
    length = 200
    recorder = Recorder()
    ids = torch.from_numpy(np.random.default_rng(0).integers(6, 10, length))
    seen = []
    with torch.no_grad():
        for _ in encoder.states(ids, Layout.of([length]), recorder):
            seen += recorder.take()
    assert len(seen) == config.num_layers
    for number, probabilities in enumerate(seen):
        for head, offset in enumerate(range(-2, 2)):
            there = float(probabilities[head].diagonal(offset).min())
            assert there > 0.6 if number == 0 or head % 2 == 0 else there < 0.1
    with pytest.raises(ModelError, match="this encoder has none"):
        look_at_neighbours(AidoRna(dataclasses.replace(config, linear_bias=False)))
