"""Attention for training on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import Layout


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, dropout: float = 0.0) -> Tensor:
    """Attention as two batched products per run of equally long segments; see `model.attention.Backend`.

    On the CPU, with heads of 32 to 64 numbers and sequences of some hundred nucleotides, the backward pass of torch's
    fused kernel takes several times as long as that of the plain products (torch 2.13). The parts are split off and
    joined in one step each: the gradient of a slice is as large as the whole, and there is one slice for each length.
    """
    sizes = [run.stop - run.start for run in layout.runs]
    scale = query.shape[-1] ** -0.5
    parts = []
    for run, *qkv in zip(layout.runs, (query * scale).split(sizes), key.split(sizes), value.split(sizes), strict=True):
        # (T, N, H) -> (count, N, L, H)
        q, k, v = (x.unflatten(0, (run.count, run.length)).transpose(1, 2) for x in qkv)
        probabilities = F.dropout(torch.softmax(q @ k.transpose(-1, -2), dim=-1), dropout, training=dropout > 0)
        attended = probabilities @ v
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)
