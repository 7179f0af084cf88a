"""8-bit products: the rounding, the emulation that says what it costs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import AidoRnaConfig, ModelError
from model.alphabet import Alphabet
from model.checkpoint import write_checkpoint
from model.encoder import AidoRna
from model.float8 import LARGEST, TYPE, Float8, check_float8, emulated, float8_linear, quantise
from model.lora import LoraConfig, add_lora

CONFIG = AidoRnaConfig(num_layers=4, hidden_size=64, num_heads=4, intermediate_size=96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float8") / "four-layers"
    torch.manual_seed(4)
    state = AidoRna(CONFIG).state_dict()
    write_checkpoint(folder, CONFIG.to_json(), {name: value * 1.5 for name, value in state.items()}, Alphabet())
    return folder


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


def test_rows_are_rounded_to_an_eighth_of_their_exponent() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64) * torch.logspace(-6, 6, 50)[:, None]
    x[7] = 0
    rounded = quantise(x)
    assert rounded.values.dtype == TYPE
    assert rounded.scale.shape == (50, 1)
    back = rounded.values.float() * rounded.scale
    assert (back[7] == 0).all()
    # Three bits of mantissa; below the smallest normal number, 2^-6, steps of 2^-9.
    assert ((back - x).abs() <= x.abs() / 16 + rounded.scale * 2**-10).all()
    largest = back.abs().amax(1)
    assert torch.allclose(largest, x.abs().amax(1), rtol=1e-6)
    assert rounded.values.float().abs().max() == LARGEST


@pytest.mark.parametrize("biased", [True, False])
def test_the_product_is_that_of_the_rounded_numbers(biased: bool) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(9, 32).bfloat16(), torch.randn(48, 32).bfloat16()
    bias = torch.randn(48).bfloat16() if biased else None
    rows, columns = quantise(x), quantise(weight)
    by_hand = torch.einsum(
        "ti,oi->to", rows.values.double() * rows.scale.double(), columns.values.double() * columns.scale.double()
    )
    by_hand = by_hand if bias is None else by_hand + bias.double()
    found = float8_linear(x, columns, bias)
    assert found.dtype == torch.bfloat16
    assert (found.double() - by_hand).abs().max() <= by_hand.abs().max() / 128
    exact = torch.nn.functional.linear(x, weight, bias).double()
    assert 1e-3 < (by_hand - exact).norm() / exact.norm() < 0.06


def test_the_kernel_takes_what_it_is_given() -> None:
    """The kernel is CUDA's; its shape rules run on the meta device, so a wrong call fails here already."""
    rows = Float8(torch.empty(32, 64, dtype=TYPE, device="meta"), torch.empty(32, 1, device="meta"))
    weight = Float8(torch.empty(48, 64, dtype=TYPE, device="meta"), torch.empty(48, 1, device="meta"))
    out = torch.ops.aten._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scale,
        scale_b=weight.scale.t(),
        bias=torch.empty(48, dtype=torch.bfloat16, device="meta"),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    assert (out.shape, out.dtype) == ((32, 48), torch.bfloat16)
    assert emulated(rows, weight, None, torch.bfloat16).shape == (32, 48)


def test_a_model_in_8_bits_stays_near(checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    seqs = ["".join(rng.choice(list("ACGU"), n)) for n in (1, 5, 40, 75, 300, 1100)]
    exact, half = model.load(checkpoint), model.load(checkpoint, dtype="bfloat16")
    eight = model.load(checkpoint, dtype="float8")
    assert (eight.float8, eight.dtype, half.float8) == (True, torch.bfloat16, False)
    cosines = _cosines(eight.embed(seqs), exact.embed(seqs))
    assert cosines.min() >= 0.99
    assert np.median(cosines) >= 0.995
    assert _cosines(half.embed(seqs), exact.embed(seqs)).min() > cosines.min()
    # The first layer is computed in bfloat16, and what comes before the last one is not.
    states, halves = eight.hidden_states(seqs[:2])[1], half.hidden_states(seqs[:2])[1]
    assert np.array_equal(states[1], halves[1])
    assert not np.array_equal(states[2], halves[2])


def test_changed_weights_are_seen(checkpoint: Path) -> None:
    loaded = model.load(checkpoint, dtype="float8")
    before = loaded.embed(["ACGU"])
    assert np.array_equal(loaded.embed(["ACGU"]), before)
    with torch.no_grad():
        loaded.module.get_parameter("layers.1.attention.value.weight").mul_(3)
    assert not np.array_equal(loaded.embed(["ACGU"]), before)
    add_lora(loaded.module, LoraConfig(), seed=0)
    with pytest.raises(ModelError, match="plain linear maps"):
        loaded.embed(["ACGU"])


def test_widths_that_the_kernel_cannot_have_are_refused() -> None:
    with pytest.raises(ModelError, match="multiples of 16, not 64 and 100"):
        check_float8(AidoRnaConfig(2, 64, 4, 100), torch.device("cpu"))
    check_float8(CONFIG, torch.device("cpu"))
