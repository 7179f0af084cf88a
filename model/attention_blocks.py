"""Attention in bfloat16 on the CPU, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from model.packing import Layout

SCORES = 1 << 22
"""That are held at once: few enough for the processor's cache, many enough for its threads to meet seldom."""


def attend_by_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Attention as two batched products per run of equally long segments, some of them at a time; see
    `model.attention.Backend`.

    torch's fused kernel (2.13) multiplies bfloat16 on the CPU no faster than float32; plain products are twice as fast
    where the processor has instructions for it. Scores are rounded to bfloat16, like all else that goes from kernel to
    kernel.
    """
    out = torch.empty_like(query)
    query = query * query.shape[-1] ** -0.5
    for run in layout.runs:
        # (T, N, H) -> (count * N, L, H), copied once: a product would copy what does not lie together, each time.
        q, k, v = (
            x[run.start : run.stop].unflatten(0, (run.count, run.length)).transpose(1, 2).flatten(0, 1)
            for x in (query, key, value)
        )
        attended = torch.empty_like(q)
        step = max(1, SCORES // run.length**2)
        for first in range(0, len(q), step):
            some = slice(first, first + step)
            torch.bmm(torch.softmax(torch.bmm(q[some], k[some].mT), dim=-1), v[some], out=attended[some])
        shape = (run.count, run.length, *out.shape[1:])
        out[run.start : run.stop].view(shape).copy_(attended.unflatten(0, (run.count, -1)).transpose(1, 2))
    return out
