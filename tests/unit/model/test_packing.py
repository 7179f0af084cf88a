"""Packed batches: what the varlen kernel is given, and that one path is computed on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import Alphabet, attention_blocks
from model.attention import Backend, choose_backend, rotary, rotate, sdpa_by_runs, varlen
from model.attention_blocks import attend_by_blocks
from model.errors import ModelError
from model.packing import Layout, batches
from model.windows import cut


def test_layout() -> None:
    layout = Layout.of([5, 3, 3, 2])
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.cu_seqlens.tolist() == [0, 5, 8, 11, 13]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 0, 1]
    assert [(run.start, run.count, run.length) for run in layout.runs] == [(0, 1, 5), (5, 2, 3), (11, 1, 2)]
    assert (layout.tokens, layout.longest) == (13, 5)


@pytest.mark.parametrize("budget", [1, 13, 40, 10_000])
def test_batches_hold_every_window_once_within_the_budget(budget: int) -> None:
    alphabet = Alphabet()
    rng = np.random.default_rng(budget)
    texts = ["".join(rng.choice(list("ACGU"), n)) for n in rng.integers(0, 50, 30)]
    tokens = alphabet.encode(texts)
    windows = cut(tokens.lengths, size=20, long="window")
    seen: list[int] = []
    for batch in batches(tokens, windows, alphabet, max_tokens=budget, device=torch.device("cpu")):
        assert batch.layout.tokens == len(batch.ids)
        assert batch.layout.tokens <= budget or len(batch.windows) == 1
        assert list(batch.layout.lengths) == sorted(batch.layout.lengths, reverse=True)
        bounds = batch.layout.cu_seqlens.tolist()
        for window, start, stop in zip(batch.windows.tolist(), bounds[:-1], bounds[1:], strict=True):
            seen.append(window)
            begin = windows.start[window]
            text = texts[windows.sequence[window]][begin : begin + windows.length[window]]
            assert batch.ids[start:stop].tolist() == alphabet.encode([text])[0].tolist()
    assert sorted(seen) == list(range(len(windows)))


@pytest.mark.parametrize("at_once", [1, 100, 1 << 20])
@pytest.mark.parametrize("kernel", [sdpa_by_runs, attend_by_blocks])
def test_attention_stays_inside_segments(kernel: Backend, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_blocks, "SCORES", at_once)
    torch.manual_seed(0)
    lengths = [7, 4, 4, 4, 1]
    layout = Layout.of(lengths)
    q, k, v = torch.randn(3, sum(lengths), 2, 8)
    out = kernel(q, k, v, layout)
    for start, stop in zip(layout.cu_seqlens[:-1].tolist(), layout.cu_seqlens[1:].tolist(), strict=True):
        scores = torch.einsum("qnh,knh->nqk", q[start:stop], k[start:stop]) / 8**0.5
        expected = torch.einsum("nqk,knh->qnh", scores.softmax(-1), v[start:stop])
        assert torch.allclose(out[start:stop], expected, atol=1e-6)


def test_rotation_depends_on_distance_only_and_keeps_float32_angles() -> None:
    torch.manual_seed(0)
    layout = Layout.of([1024])
    cosine, sine = rotary(layout, 16)
    assert cosine.dtype == sine.dtype == torch.float32
    assert cosine.shape == (1024, 1, 8)
    q, k = torch.randn(2, 1, 1, 16).expand(2, 1024, 1, 16)
    scores = torch.einsum("qnh,knh->qk", rotate(q, cosine, sine), rotate(k, cosine, sine))
    for distance in (0, 1, 17, 900):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-3)
    exact = 1000.0 * 10000.0 ** (-2 * np.arange(8) / 16)
    assert cosine[1000, 0].numpy() == pytest.approx(np.cos(exact), abs=1e-4)
    half = rotate(q.bfloat16(), cosine, sine)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), rotate(q.bfloat16().float(), cosine, sine), atol=0.02)


def test_the_backend_is_chosen_in_one_place() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_backend(cpu, torch.float32) is choose_backend(cpu, torch.float16) is sdpa_by_runs
    assert choose_backend(cpu, torch.bfloat16) is attend_by_blocks
    assert choose_backend(cuda, torch.float32) is sdpa_by_runs
    assert choose_backend(cuda, torch.bfloat16) is choose_backend(cuda, torch.float16) is varlen
    for device, dtype in ((torch.device("mps"), torch.float32), (cuda, torch.float64)):
        with pytest.raises(ModelError, match="no attention kernel"):
            choose_backend(device, dtype)


def test_the_varlen_kernel_takes_what_it_is_given() -> None:
    """The kernel is CUDA's; its shape rules run on the meta device, so a wrong call fails here already."""
    layout = Layout.of([5, 3, 3])
    meta = Layout(layout.lengths, layout.runs, layout.cu_seqlens.to("meta"), layout.positions.to("meta"))
    query = torch.empty(11, 4, 32, dtype=torch.bfloat16, device="meta")
    assert varlen(query, query, query, meta).shape == (11, 4, 32)
