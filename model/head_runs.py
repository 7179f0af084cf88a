"""Task heads on a pass of the trunk: what each reads, and what becomes of its logits.

Legend: S sequences, L nucleotides of one sequence, D hidden size, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.encoder import AidoRna
from model.errors import ModelError, SequenceError
from model.head_config import HeadConfig
from model.passes import Consumer, Pooled, Reading, Rows, Windowed, refuse_nan, to_numpy
from model.windows import pair_coverage

LONGEST_MAP = 8192
"""Nucleotides of the longest sequence that a contact or structure head maps: 268 MB a label."""

ALIKE_PAIRS = {"cpu": 0, "cuda": 1 << 19}
"""Pairs of nucleotides that a head over pairs maps at once, of sequences of one length: three maps of 128 MiB. A CPU
gains nothing by it, a GPU would be busy with starting kernels."""

Reduce = Callable[[int, np.ndarray], Any]
"""(index of the sequence, its logits) -> what is kept of them."""


class HeadRun:
    """One head on one pass: give `consumer` to `model.passes.run`, then read `values`.

    A sequence head reads the pooled vector of the whole sequence. The logits of a token head are averaged over the
    windows that cover a nucleotide, those of a contact or structure head over the windows that cover both of a pair;
    where no window does, the model has not read the two together, and their logits are -inf: never in contact. Maps are
    reduced as soon as they are made, so that those of many sequences never stand in memory together.

    Args:
        name: of the head, for messages.
        config: of the head.
        module: the head.
        encoder: the trunk.
        reading: the sequences.
        reduce: what to keep of a sequence's logits: (C,), (L, C), (L, L, C) or (L, L) float32.

    Raises:
        ModelError: the head reads the pooler's output, and the checkpoint has no pooler.
        SequenceError: a sequence is empty, or too long for a map of pairs.
    """

    def __init__(
        self, name: str, config: HeadConfig, module: nn.Module, encoder: AidoRna, reading: Reading, reduce: Reduce
    ) -> None:
        refuse_empty(reading, f"the head {name!r} has nothing to read")
        self._name, self._module, self._reduce = name, module, reduce
        self._values: list[Any] = [None] * len(reading)
        windows, last, width = reading.windows, encoder.config.num_layers, encoder.config.hidden_size
        self.consumer: Consumer
        if config.kind == "token":
            self.consumer = Rows(windows, last, self._apply)
        elif config.kind == "sequence":
            compute = None
            if config.pooling == "pooler":
                if encoder.pooler is None:
                    raise ModelError(
                        f"the head {name!r} reads the pooler's output, and this checkpoint has no pooler; make a head "
                        "that reads the mean: HeadConfig(..., pooling='mean')"
                    )
                compute = encoder.pooler
            pooling = "cls" if config.pooling == "pooler" else config.pooling
            self.consumer = Pooled(windows, last, pooling, width, compute)
        else:
            over = np.flatnonzero(windows.kept > LONGEST_MAP)
            if len(over):
                raise SequenceError(
                    f"sequence {over[0] + 1} of the list has {windows.kept[over[0]]:,} nucleotides, and maps of pairs "
                    f"are made for {LONGEST_MAP:,} at most (their memory grows with the square); cut it, or have it "
                    "truncated",
                    index=int(over[0]),
                )
            pairs = ALIKE_PAIRS[next(module.parameters()).device.type]
            self.consumer = Windowed(windows, last, self._take, self._take_alike, pairs)

    def _apply(self, states: Tensor) -> Tensor:
        """The head, in evaluation mode whatever mode it is in: no dropout."""
        training = self._module.training
        try:
            return self._module.eval()(states.float())
        finally:
            self._module.train(training)

    def _take(self, index: int, parts: list[tuple[int, Tensor]]) -> None:
        self._keep(index, _merge([(start, to_numpy(self._apply(states))) for start, states in parts]))

    def _take_alike(self, indices: list[int], states: Tensor) -> None:
        for index, logits in zip(indices, to_numpy(self._apply(states)), strict=True):
            self._keep(index, logits)

    def _keep(self, index: int, logits: np.ndarray) -> None:
        refuse_nan(logits, index, f"the head {self._name!r}")
        self._values[index] = self._reduce(index, logits)

    def values(self) -> list[Any]:
        """What was kept of each sequence, S of them."""
        if isinstance(self.consumer, Rows):
            for i, rows in enumerate(self.consumer.values()):
                self._keep(i, rows[1:-1])
        elif isinstance(self.consumer, Pooled):
            device = next(self._module.parameters()).device
            with torch.inference_mode():
                logits = to_numpy(self._apply(torch.from_numpy(self.consumer.values()).to(device)))
            for i, row in enumerate(logits):
                self._keep(i, row)
        return self._values


def _merge(maps: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """The map of a sequence from those of its windows, each (l, l, ...) from its first nucleotide on."""
    if len(maps) == 1:
        return maps[0][1]
    length = max(start + len(part) for start, part in maps)
    total = np.zeros((length, length, *maps[0][1].shape[2:]), np.float32)
    for start, part in maps:
        own = slice(start, start + len(part))
        total[own, own] += part
    times = pair_coverage(np.array([start for start, _ in maps]), np.array([len(part) for _, part in maps]), length)
    total[times == 0] = -np.inf
    times = np.maximum(times, 1)
    total /= times.reshape(*times.shape, *[1] * (total.ndim - 2))
    return total


def refuse_empty(reading: Reading, why: str) -> None:
    """Refuse a sequence without nucleotides.

    Raises:
        SequenceError: it is empty.
    """
    empty = np.flatnonzero(reading.windows.kept == 0)
    if len(empty):
        raise SequenceError(f"sequence {empty[0] + 1} of the list is empty, so {why}", index=int(empty[0]))
