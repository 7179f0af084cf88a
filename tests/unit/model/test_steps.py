"""The pieces of inference against the modules that they stand in for, which are what gradients go through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import model
from model import AidoRnaConfig, ModelError
from model.encoder import AidoRna, Block
from model.float8 import Float8Layers
from model.layers import joined, layer_of
from model.lora import LoraConfig, add_lora
from model.packing import Layout
from model.pooling import pool, reduce_segments
from model.products import gated, linear, linear_added
from model.steps import PLAIN, compiled
from model.transfer import AHEAD, Arrivals

LENGTHS = [20, 17, 17, 3]
BOUND = 5e-6
CONFIGS = {
    "layernorm": AidoRnaConfig(num_layers=3, hidden_size=32, num_heads=4, intermediate_size=48),
    "rmsnorm": AidoRnaConfig(3, 32, 4, 48, norm="rmsnorm", linear_bias=False),
}


def _encoder(config: AidoRnaConfig) -> AidoRna:
    torch.manual_seed(3)
    encoder = AidoRna(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return encoder.join().eval()


def _states(encoder: AidoRna, layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
    """By the pieces, and by the modules."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 26, layout.tokens))
    with torch.inference_mode():
        pieces = list(encoder.states(ids, layout))
    modules = [state.detach() for state in encoder.states(ids, layout)]
    return pieces, modules


def _assert_close(ours: list[Tensor], theirs: list[Tensor], bound: float = BOUND) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= bound * b.abs().max()


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr("model.products._by_onednn", lambda _: False)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_pieces_are_the_modules(config: AidoRnaConfig) -> None:
    encoder = _encoder(config)
    _assert_close(*_states(encoder, Layout.of(LENGTHS)))
    pieces, modules = _states(encoder.bfloat16().join(), Layout.of(LENGTHS))
    assert pieces[-1].dtype == torch.bfloat16
    assert F.cosine_similarity(pieces[-1].float(), modules[-1].float(), dim=-1).min() > 0.999


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, residual, bias = torch.randn(9, 16), torch.randn(9, 24), torch.randn(24)
    weight = torch.randn(24, 16)
    exact = F.linear(x, weight, bias)
    a, b = exact.chunk(2, dim=-1)
    cases = [(linear, (x, weight, bias), exact), (linear, (x, weight, None), exact - bias)]
    cases += [(linear_added, (residual, x, weight, bias), residual + exact), (gated, (x, weight, bias), F.silu(a) * b)]
    for function, arguments, expected in cases:
        found = function(*(None if value is None else value.to(dtype) for value in arguments))
        assert found.dtype == dtype
        error = (found.float() - expected).abs().max() / expected.abs().max()
        assert error < (1e-6 if dtype == torch.float32 else 0.02)


def test_bfloat16_needs_no_instructions_for_it() -> None:
    """oneDNN is told to know the processor's older instructions only, with which it has no such products."""
    program = (
        "import torch; from model.products import linear; x = torch.eye(16, dtype=torch.bfloat16); "
        "print(torch.equal(linear(x, x + 1, None), x + 1))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_weights_are_joined_without_a_copy_and_changes_are_seen() -> None:
    encoder = _encoder(CONFIGS["layernorm"])
    block = encoder.layers[1]
    assert isinstance(block, Block)
    layer = layer_of(block)
    assert layer is not None
    assert layer.query_key_value.shape == (96, 32)
    assert layer.gate_up_bias is not None
    assert layer.query_key_value.data_ptr() == block.attention.query.weight.data_ptr()
    assert torch.equal(layer.query_key_value[32:64], block.attention.key.weight)
    assert torch.equal(layer.gate_up_bias[48:], block.mlp.up.bias)
    with torch.no_grad():
        block.attention.key.weight.mul_(-2)
    _assert_close(*_states(encoder, Layout.of(LENGTHS)))
    # A part that is replaced does not lie beside the others any more: the modules compute.
    block.mlp.up = torch.nn.Linear(32, 48)
    assert layer_of(block) is None
    _assert_close(*_states(encoder, Layout.of(LENGTHS)))
    assert layer_of(encoder.join().layers[1]) is not None  # type: ignore[arg-type]


def test_only_one_memory_in_order_is_joined() -> None:
    whole = torch.arange(24.0).view(6, 4)
    assert torch.equal(joined([whole[:2], whole[2:5]]), whole[:5])  # type: ignore[arg-type]
    for parts in ([whole[2:], whole[:2]], [whole[:2], whole[3:]], [whole[:2], whole[2:].clone()], [whole[:, :2]] * 2):
        assert joined(parts) is None


def test_lora_computes_by_modules() -> None:
    encoder = _encoder(CONFIGS["layernorm"])
    before, _ = _states(encoder, Layout.of(LENGTHS))
    add_lora(encoder, LoraConfig(rank=2), seed=0)
    encoder.eval()
    for name, parameter in encoder.named_parameters():
        if "lora" in name.lower() or parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    ours, theirs = _states(encoder, Layout.of(LENGTHS))
    _assert_close(ours, theirs)
    assert (ours[-1] - before[-1]).abs().max() > 0.01


def test_pooling_in_one_kernel() -> None:
    torch.manual_seed(0)
    layout = Layout.of(LENGTHS)
    hidden, weights = torch.randn(layout.tokens, 8), torch.rand(layout.tokens)
    for pooling in ("mean", "max"):
        expected = pool(hidden, layout, pooling, weights)
        assert torch.allclose(reduce_segments(hidden, layout, pooling, weights), expected, atol=1e-6)


def test_tensors_arrive_in_order_and_the_last_are_not_waited_for() -> None:
    taken: list[tuple[int, float]] = []

    def take(label: int, values: np.ndarray) -> None:
        taken.append((label, float(values.sum())))

    coming = Arrivals(take)
    for number in range(5):
        coming.add(number, torch.full((3,), number, dtype=torch.bfloat16))
        assert len(taken) == max(0, number + 1 - AHEAD)
    coming.finish()
    assert taken == [(number, 3.0 * number) for number in range(5)]


def test_full_batches_are_filled_up_and_nothing_shows(tiny: Path) -> None:
    rng = np.random.default_rng(1)
    seqs = ["".join(rng.choice(list("ACGU"), n)) for n in rng.integers(1, 90, 40)]
    loaded = model.load(tiny)
    expected, tokens, logits = loaded.embed(seqs), loaded.encode(seqs), loaded.logits(seqs)
    loaded._fill = True
    read = list(loaded._read(seqs, max_tokens=300).batches())
    assert {len(batch.ids) for batch in read} == {300} == {batch.filled.tokens for batch in read}
    assert all(batch.filled.filled and max(batch.filled.lengths) <= 128 for batch in read)
    assert sum(batch.layout.tokens for batch in read) == sum(len(seq) + 2 for seq in seqs) < 300 * len(read)
    scale = np.abs(expected).max()
    assert np.abs(loaded.embed(seqs, max_tokens=300) - expected).max() <= 1e-5 * scale
    for ours, theirs in ((loaded.encode(seqs, max_tokens=300), tokens), (loaded.logits(seqs, max_tokens=300), logits)):
        assert all(np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in zip(ours, theirs, strict=True))
    exact = model.load(tiny).masked_logits(seqs[:2])
    for ours, theirs in zip(loaded.masked_logits(seqs[:2], max_tokens=300), exact, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    # Maps of nothing are not made, and too little for one batch is left as it is.
    assert len(loaded.attentions(seqs, max_tokens=300)) == len(seqs)
    assert not next(loaded._read(seqs[:1], max_tokens=300).batches()).filled.filled


def test_company_does_not_matter_at_a_fixed_budget(tiny: Path) -> None:
    rng = np.random.default_rng(2)
    one = "".join(rng.choice(list("ACGU"), 60))
    loaded = model.load(tiny)
    loaded._fill = True
    found = []
    for _ in range(4):
        others = ["".join(rng.choice(list("ACGU"), n)) for n in rng.integers(1, 120, 12)]
        place = int(rng.integers(len(others)))
        found.append(loaded.embed([*others[:place], one, *others[place:]], max_tokens=256)[place])
    assert all(np.abs(row - found[0]).max() <= 1e-6 * np.abs(found[0]).max() for row in found)


def test_company_hardly_matters_in_bfloat16() -> None:
    """Products of other shapes are summed in another order, and rounded to eight bits after each."""
    rng = np.random.default_rng(3)
    seqs = ["".join(rng.choice(list("ACGU"), n)) for n in (1, 9, 30, 30, 75, 150, 400, 1022, 1500)]
    half = model.load("nano", dtype="bfloat16")
    together, alone = half.embed(seqs), np.concatenate([half.embed([seq]) for seq in seqs])
    cosine = (together * alone).sum(1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
    assert cosine.min() >= 0.9999


def test_layers_are_compiled_where_asked_for_and_possible_only(tiny: Path) -> None:
    assert not model.load(tiny).compiled
    with pytest.raises(ModelError, match="compiled in half precision on CUDA"):
        model.load(tiny, compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("told_apart", [True, False])
def test_ten_budgets_are_compiled(told_apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than torch allows by itself; also where its compiler takes no limit for one function."""
    torch._dynamo.reset()
    if not told_apart:
        none = SimpleNamespace(parameters={})
        monkeypatch.setattr("model.steps.inspect", SimpleNamespace(signature=lambda _: none))
    encoder = _encoder(CONFIGS["layernorm"])
    with torch._dynamo.config.patch(recompile_limit=8):
        encoder.fixed = compiled(backend="eager")
        for tokens in range(8, 18):
            assert len(_states(encoder, Layout.of([tokens], filled=True))[0]) == 4


@pytest.mark.slow
def test_compiled_pieces_in_8_bits_are_the_plain_ones() -> None:
    encoder = _encoder(AidoRnaConfig(num_layers=4, hidden_size=32, num_heads=4, intermediate_size=48)).bfloat16().join()
    encoder.float8 = Float8Layers()
    layout = Layout.of([20, 20, 13, 11], filled=True)
    plain = _states(encoder, layout)[0][-1].float()
    encoder.fixed = compiled()
    found = _states(encoder, layout)[0][-1].float()
    # A sum that is not rounded to bfloat16 on its way may fall on the other side of a step of 8 bits.
    assert F.cosine_similarity(found, plain, dim=-1).min() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_compiled_pieces_are_the_plain_ones(config: AidoRnaConfig) -> None:
    """By torch's compiler for the CPU, the twin of that for CUDA. One graph for a piece, whatever the lengths."""
    encoder = _encoder(config)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layouts = [Layout.of(lengths, filled=True) for lengths in ([20, 20, 13, 11], [30, 10, 10, 10, 4], [64])]
    plain = [_states(encoder, layout)[0] for layout in layouts]
    encoder.fixed = compiled()
    for layout, expected in zip(layouts, plain, strict=True):
        _assert_close(_states(encoder, layout)[0], expected, 2e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    encoder.fixed = PLAIN
