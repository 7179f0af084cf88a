"""On a CUDA device: the varlen kernel in half precision against float32, and float32 against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import model
from model import HeadConfig
from model.float8 import check_float8, emulated, float8_linear, quantise
from model.packing import Layout
from model.pooling import pool
from model.steps import no_compiler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module")
def seqs() -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACGU"), n)) for n in (1, 22, 22, 75, 300, 1022, 1023, 2500)]


def test_float32_equals_the_cpu(seqs: list[str]) -> None:
    cpu, cuda = model.load("nano").embed(seqs), model.load("nano", device="cuda").embed(seqs)
    assert np.abs(cpu - cuda).max() <= 1e-4 * np.abs(cpu).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_varlen_stays_near_float32(seqs: list[str], dtype: str) -> None:
    exact, half = (
        model.load("nano", device="cuda").embed(seqs),
        model.load("nano", device="cuda", dtype=dtype).embed(seqs),
    )
    cosine = (exact * half).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() >= 0.999


def test_company_in_the_batch_does_not_matter(seqs: list[str]) -> None:
    half = model.load("nano", device="cuda", dtype="bfloat16")
    together = half.embed(seqs)
    alone = np.concatenate([half.embed([seq]) for seq in seqs])
    cosine = (together * alone).sum(1) / np.linalg.norm(together, axis=1) / np.linalg.norm(alone, axis=1)
    assert cosine.min() >= 0.9999


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_company_in_a_constant_batch_changes_no_bit(seqs: list[str], dtype: str) -> None:
    half = model.load("nano", device="cuda", dtype=dtype)
    if half.compiled:
        assert no_compiler() == ""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(3):
        others = ["".join(rng.choice(list("ACGU"), n)) for n in rng.integers(1, 400, 60)]
        found.append(half.embed([*others, *seqs], max_tokens=4224)[-len(seqs) :])
    # The last sequence is read in windows, whose vectors may be added in another order.
    assert all(np.array_equal(rows[:-1], found[0][:-1]) for rows in found)


def test_compiled_layers_are_the_plain_ones(seqs: list[str]) -> None:
    if no_compiler():
        pytest.skip(no_compiler())
    many = seqs * 4
    plain = model.load("nano", device="cuda", dtype="bfloat16", compile=False).embed(many, max_tokens=4224)
    fused = model.load("nano", device="cuda", dtype="bfloat16", compile=True).embed(many, max_tokens=4224)
    cosine = (plain * fused).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(fused, axis=1)
    assert cosine.min() >= 0.9999


def test_8_bits_are_those_that_are_emulated() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(256, 512), torch.randn(1664, 512), torch.randn(1664)
    x, weight, bias = (each.to("cuda", torch.bfloat16) for each in (x, weight, bias))
    check_float8(model.load("nano").config, x.device)
    expected = emulated(quantise(x), quantise(weight), bias, torch.bfloat16).float()
    found = float8_linear(x, quantise(weight), bias).float()
    assert (found - expected).abs().max() <= expected.abs().max() / 100


def test_pooling_in_one_kernel_equals_the_cpu() -> None:
    torch.manual_seed(0)
    lengths = [300, 75, 75, 24, 3]
    hidden, weights = torch.randn(sum(lengths), 64), torch.rand(sum(lengths))
    cpu, cuda = Layout.of(lengths), Layout.of(lengths, "cuda")
    for pooling in ("mean", "max", "cls"):
        expected = pool(hidden, cpu, pooling, weights)
        found = pool(hidden.cuda(), cuda, pooling, weights.cuda()).cpu()
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_heads_and_variants_equal_the_cpu(seqs: list[str]) -> None:
    """Random heads on the random trunk: the same code on both devices, float32."""
    configs = {
        "s": HeadConfig("sequence", "multiclass", 3, pooling="mean"),
        "t": HeadConfig("token", "multiclass", 2),
        "c": HeadConfig("contact", "binary"),
        "f": HeadConfig("structure"),
    }
    cpu, cuda, half = (
        model.load("nano"),
        model.load("nano", device="cuda"),
        model.load("nano", device="cuda", dtype="bfloat16"),
    )
    rng = np.random.default_rng(1)
    for name, config in configs.items():
        for loaded in (cpu, cuda, half):
            loaded.add_head(name, config, seed=5)
        for seq in seqs:
            # Random labels, so that maps with rows or windows out of place give another loss.
            shape = {"sequence": (), "token": (len(seq),)}.get(config.kind, (len(seq), len(seq)))
            labels = rng.integers(2, size=(1, *shape))
            exact, same, near = (loaded.loss([seq], labels, head=name) for loaded in (cpu, cuda, half))
            assert same == pytest.approx(exact, rel=1e-4)
            assert near == pytest.approx(exact, rel=2e-2)
    ours, theirs = cpu.variants(seqs[:4])[3].scores, cuda.variants(seqs[:4])[3].scores
    assert np.abs(ours - theirs).max() <= 1e-3
