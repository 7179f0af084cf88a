"""Attention inside the segments of a packed batch, and rotary positions.

Legend: S segments, L tokens of a segment, T packed tokens, N heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import ModelError
from model.packing import Layout

ROTARY_BASE = 10000.0

Backend = Callable[[Tensor, Tensor, Tensor, Layout], Tensor]
"""(query, key, value) each (T, N, H) and the layout -> (T, N, H)."""


@lru_cache(maxsize=8)
def _rotary_table(head_size: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (L, 1, H/2) float32 each."""
    # A plain cache, not a module buffer: model.to(bfloat16) would cast a buffer, and bfloat16 cannot count past 256.
    with torch.inference_mode(False):
        pairs = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)
        angles = torch.outer(
            torch.arange(length, dtype=torch.float32, device=device), 1.0 / ROTARY_BASE ** (pairs / head_size)
        )
        return angles.cos()[:, None], angles.sin()[:, None]


def rotary(layout: Layout, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every token's position in its segment: (T, 1, H/2) float32 each."""
    # Rounded up so that few tables are made, however the lengths vary.
    rows = -(-layout.longest // 1024) * 1024
    cosine, sine = _rotary_table(head_size, rows, layout.positions.device)
    return cosine[layout.positions], sine[layout.positions]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the pairs (h, h + H/2) of every head by their angles (half-split layout), in float32.

    Args:
        x: (T, N, H) in any float type.
        cosine: (T, 1, H/2) float32.
        sine: (T, 1, H/2) float32.

    Returns:
        (T, N, H) in x's type.
    """
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x.dtype)


def sdpa_by_runs(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """One dense attention call per run of equally long segments; no padding, no mask."""
    out = torch.empty_like(query)
    for run in layout.runs:
        # (T, N, H) -> (count, N, L, H)
        q, k, v = (
            x[run.start : run.stop].unflatten(0, (run.count, run.length)).transpose(1, 2) for x in (query, key, value)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        out[run.start : run.stop] = attended.transpose(1, 2).flatten(0, 1)
    return out


def varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """One flash-attention call for the whole batch; CUDA, bfloat16 or float16."""
    from torch.nn.attention.varlen import varlen_attn

    cu, longest = layout.cu_seqlens, layout.longest
    # Positional arguments only: the keywords differ between torch 2.11 and 2.13.
    out = varlen_attn(query, key, value, cu, cu, longest, longest)
    assert isinstance(out, Tensor)
    return out


class Recorder:
    """A backend that writes the probabilities out and keeps those of the last call (layer)."""

    def __init__(self) -> None:
        self._maps: list[Tensor] = []

    def take(self) -> list[Tensor]:
        """One (N, L, L) float32 tensor for each segment, on the CPU; they are given away."""
        maps, self._maps = self._maps, []
        return maps

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """See `Backend`."""
        out = torch.empty_like(query)
        found: list[Tensor] = []
        start = 0
        for length in layout.lengths:
            # (T, N, H) -> (N, L, H); probabilities in float32, as the reference has them.
            q, k, v = (x[start : start + length].transpose(0, 1) for x in (query, key, value))
            p = torch.softmax((q.float() @ k.float().transpose(1, 2)) * q.shape[-1] ** -0.5, dim=-1)
            out[start : start + length] = (p.to(v.dtype) @ v).transpose(0, 1)
            found.append(p.cpu())
            start += length
        self._maps = found
        return out


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The one place where the attention kernel is decided.

    Raises:
        ModelError: there is none for this device and type.
    """
    if device.type == "cpu" or (device.type == "cuda" and dtype == torch.float32):
        return sdpa_by_runs
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return varlen
    raise ModelError(f"no attention kernel for {dtype} on {device}; use cpu, or cuda")
