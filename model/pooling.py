"""One vector per window from its tokens' states.

Legend: W windows of a batch, L tokens of a window, T packed tokens, D hidden size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.packing import Layout
from model.windows import Windows

Pooling = Literal["mean", "cls", "max"]


def pool(hidden: Tensor, layout: Layout, pooling: Pooling, weights: Tensor | None) -> Tensor:
    """Pool each segment.

    Args:
        hidden: (T, D) float32.
        layout: where the segments lie.
        pooling: "mean" is the sum weighted by `weights`; "cls" the state of <cls>; "max" the element-wise maximum
            over nucleotides.
        weights: (T,) float32, for "mean": zero on special tokens.

    Returns:
        (W, D) float32.
    """
    if pooling == "cls":
        return hidden[layout.cu_seqlens[:-1].long()]
    if hidden.device.type == "cuda":
        return reduce_segments(hidden, layout, pooling, weights)
    out: list[Tensor] = []
    for run in layout.runs:
        x = hidden[run.start : run.stop].unflatten(0, (run.count, run.length))
        if pooling == "max":
            out.append(x[:, 1:-1].amax(dim=1))
        else:
            assert weights is not None
            w = weights[run.start : run.stop].unflatten(0, (run.count, 1, run.length))
            out.append(torch.bmm(w, x).squeeze(1))
    return torch.cat(out)


def reduce_segments(hidden: Tensor, layout: Layout, pooling: Pooling, weights: Tensor | None) -> Tensor:
    """`pool` for mean and max in one kernel, however many lengths there are; every segment is summed on its own."""
    offsets = layout.cu_seqlens.long()
    if pooling == "mean":
        assert weights is not None
        return torch.segment_reduce(hidden * weights[:, None], "sum", offsets=offsets, axis=0, unsafe=True)
    specials = torch.cat([offsets[:-1], offsets[1:] - 1])
    nucleotides = hidden.index_fill(0, specials, -torch.inf)
    return torch.segment_reduce(nucleotides, "max", offsets=offsets, axis=0, unsafe=True)


class PooledWindows:
    """Collects the pooled windows of all batches into one vector per sequence.

    "mean" windows carry their share already and are summed; "cls" is averaged over windows; "max" is over all.
    """

    def __init__(self, windows: Windows, pooling: Pooling, width: int) -> None:
        self._windows = windows
        self._pooling = pooling
        start = -np.inf if pooling == "max" else 0.0
        self._values = np.full((len(windows.count), width), start, dtype=np.float32)

    def add(self, chosen: np.ndarray, pooled: np.ndarray) -> None:
        """Take the (W, D) vectors of the windows `chosen`."""
        sequences = self._windows.sequence[chosen]
        if self._pooling == "max":
            np.maximum.at(self._values, sequences, pooled)
        elif self._pooling == "cls":
            np.add.at(self._values, sequences, pooled / self._windows.count[sequences, None].astype(np.float32))
        else:
            np.add.at(self._values, sequences, pooled)

    def values(self) -> np.ndarray:
        """(S, D) float32."""
        return self._values
