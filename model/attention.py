"""Attention inside the segments of a packed batch, and rotary positions.

Legend: S segments, L tokens of a segment, T packed tokens, N heads, H head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention_blocks import attend_by_blocks
from model.attention_training import attend_by_products
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
    """Turn the pairs (h, h + H/2) of every head by their angles (half-split layout), in float32 at least.

    Args:
        x: (T, N, H) in any float type.
        cosine: (T, 1, H/2) float32.
        sine: (T, 1, H/2) float32.

    Returns:
        (T, N, H) in x's type.
    """
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x.dtype)


def sdpa_by_runs(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, dropout: float = 0.0) -> Tensor:
    """One dense attention call per run of equally long segments; no padding, no mask.

    Args:
        query, key, value, layout: see `Backend`.
        dropout: of the probabilities.
    """
    # Split once and joined once, not sliced and written run by run: the gradient of each slice would be as large as the
    # whole batch. Without gradients the runs are written where they belong, which saves a copy.
    sizes = [run.stop - run.start for run in layout.runs]
    parts: list[Tensor] = []
    out = None if torch.is_grad_enabled() else torch.empty_like(query)
    for run, *qkv in zip(layout.runs, *(x.split(sizes) for x in (query, key, value)), strict=True):
        # (T, N, H) -> (count, N, L, H)
        q, k, v = (x.unflatten(0, (run.count, run.length)).transpose(1, 2) for x in qkv)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(0, 1)
        if out is None:
            parts.append(attended)
        else:
            out[run.start : run.stop] = attended
    return torch.cat(parts) if out is None else out


@lru_cache(maxsize=1)
def _whole_keys() -> dict[str, Any]:
    """Where the kernel can be told so, never to split the keys of a segment by how busy the device is."""
    from torch.nn.attention.varlen import varlen_attn

    return {"num_splits": 1} if "num_splits" in inspect.signature(varlen_attn).parameters else {}


def varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """One flash-attention call for the whole batch; CUDA, bfloat16 or float16."""
    from torch.nn.attention.varlen import varlen_attn

    cu, longest = layout.cu_seqlens, layout.longest
    # The rest by position: other keywords differ between torch 2.11 and 2.13.
    out = varlen_attn(query, key, value, cu, cu, longest, longest, **_whole_keys())
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


def choose_backend(
    device: torch.device, dtype: torch.dtype, *, gradients: bool = False, dropout: float = 0.0
) -> Backend:
    """The one place where the attention kernel is decided.

    Args:
        device: where it runs.
        dtype: of query, key and value; in autocast its type, not that of the weights.
        gradients: whether they will be asked for.
        dropout: of the probabilities, above 0 in training only.

    Raises:
        ModelError: there is none for this device and type, or none with dropout.
    """
    if device.type == "cpu" or (device.type == "cuda" and dtype == torch.float32):
        if dtype == torch.bfloat16 and not gradients and not dropout:
            return attend_by_blocks
        # In float32 torch's fused kernel is as fast or faster in both directions.
        half = dtype in (torch.bfloat16, torch.float16)
        kernel = attend_by_products if gradients and half else sdpa_by_runs
        return partial(kernel, dropout=dropout) if dropout else kernel
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        if dropout:
            raise ModelError(
                f"attention_dropout is {dropout:g}, and flash attention over packed sequences has none; train with "
                "attention_dropout 0, or in float32"
            )
        return varlen
    raise ModelError(f"no attention kernel for {dtype} on {device}; use cpu, or cuda")
