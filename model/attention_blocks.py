"""Attention in bfloat16 on the CPU, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from model.packing import Layout

SCORES = 1 << 20
"""That are held at once, unless those of one head are more: two megabytes stay in a core's cache."""


def attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Attention as two batched products per run of equally long segments, some heads at a time; see
    `model.attention.Backend`.

    torch's fused kernel (2.13) multiplies bfloat16 on the CPU no faster than float32; plain products are twice as fast
    where the processor has instructions for it. Scores are rounded to bfloat16, like all else that goes from kernel to
    kernel.
    """
    out = torch.empty_like(query)
    scale = query.shape[-1] ** -0.5
    for run in layout.runs:
        # (T, N, H) -> (count, N, L, H)
        q, k, v, o = (
            x[run.start : run.stop].unflatten(0, (run.count, run.length)).transpose(1, 2)
            for x in (query, key, value, out)
        )
        heads = max(1, SCORES // (run.count * run.length**2))
        for some in (slice(first, first + heads) for first in range(0, q.shape[1], heads)):
            scores = (q[:, some] * scale) @ k[:, some].mT
            o[:, some] = torch.softmax(scores, dim=-1) @ v[:, some]
    return out
