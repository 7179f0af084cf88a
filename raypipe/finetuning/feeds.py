"""What a head reads of the sequences of a batch: from a frozen trunk, computed once or each time, or a trained one.

A sequence head reads (S, D) vectors; the others the states of every window of a sequence, so that they are taught as
they predict: logits are averaged over the windows of a long sequence. Legend: S sequences, L nucleotides, W windows,
D hidden size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import Model
from model.head_config import HeadConfig
from model.packing import batches
from model.passes import Reading, Windowed, run
from model.pooling import pool
from model.trunk import DEFAULT_MAX_TOKENS
from model.windows import Windows, cut, mean_weights

Parts = list[tuple[int, Tensor]]
"""The windows of a sequence: first nucleotide, and the (nucleotides, D) float32 states."""

Food = Tensor | list[Parts]
"""(S, D) for a sequence head, else one list of windows for each sequence."""

Feed = Callable[[Sequence[int]], Food]
"""Places of examples -> what the head reads of them."""


@dataclass
class FrozenFeed:
    """A trunk that stays as it is, run anew for every batch.

    Attributes:
        model: the loaded checkpoint.
        head: the head's configuration.
        sequences: of all examples.
    """

    model: Model
    head: HeadConfig
    sequences: Sequence[str]

    def __call__(self, batch: Sequence[int]) -> Food:
        """See `Feed`."""
        texts = [self.sequences[place] for place in batch]
        device = self.model.device
        if self.head.kind == "sequence":
            if self.head.pooling == "pooler":
                return torch.from_numpy(self.model.pooler_output(texts)).to(device)
            return torch.from_numpy(self.model.embed(texts, pooling=self.head.pooling)).to(device)
        found: list[Parts] = [[] for _ in texts]

        def take(index: int, parts: Parts) -> None:
            found[index] = parts

        tokens = self.model.alphabet.encode(texts)
        windows = cut(tokens.lengths, size=self.model.config.context, long="window")
        reading = Reading(tokens, windows, self.model.alphabet, DEFAULT_MAX_TOKENS[device.type], device)
        run(self.model.module, reading, [Windowed(windows, self.model.config.num_layers, take)])
        return [[(start, _usable(states)) for start, states in parts] for parts in found]


@dataclass
class TrainedFeed:
    """A trunk that is trained: the same, with gradients where they are asked for.

    Attributes:
        model, head, sequences: as above.
        dtype: of autocast; float32 does without.
    """

    model: Model
    head: HeadConfig
    sequences: Sequence[str]
    dtype: torch.dtype = torch.float32

    def __call__(self, batch: Sequence[int]) -> Food:
        """See `Feed`."""
        model = self.model
        tokens = model.alphabet.encode([self.sequences[place] for place in batch])
        windows = cut(tokens.lengths, size=model.config.context, long="window")
        (packed,) = batches(tokens, windows, model.alphabet, max_tokens=sys.maxsize, device=model.device)
        low = self.dtype != torch.float32
        with torch.autocast(model.device.type, self.dtype) if low else nullcontext():
            hidden = model.module(packed.ids, packed.layout)
        hidden = hidden.float()
        if self.head.kind == "sequence":
            return self._pooled(hidden, packed, windows)
        states = dict(zip(packed.windows.tolist(), hidden.split(list(packed.layout.lengths)), strict=True))
        found: list[Parts] = [[] for _ in batch]
        for window, (sequence, start) in enumerate(zip(windows.sequence, windows.start, strict=True)):
            found[int(sequence)].append((int(start), states[window][1:-1]))
        return found

    def _pooled(self, hidden: Tensor, packed: Any, windows: Windows) -> Tensor:
        """(T, D) -> (S, D), as `model.pooling` joins windows."""
        pooling = "cls" if self.head.pooling == "pooler" else self.head.pooling
        weights = None
        if pooling == "mean":
            shares = mean_weights(windows)
            weights = torch.from_numpy(np.concatenate([shares[w] for w in packed.windows.tolist()])).to(hidden.device)
        pooled = pool(hidden, packed.layout, pooling, weights)
        if self.head.pooling == "pooler":
            assert self.model.module.pooler is not None
            pooled = self.model.module.pooler(pooled)
        order = torch.from_numpy(windows.sequence[packed.windows]).to(hidden.device)
        count = len(windows.count)
        if pooling == "max":
            most = torch.full((count, pooled.shape[1]), -torch.inf, device=hidden.device)
            return most.scatter_reduce(0, order[:, None].expand_as(pooled), pooled, "amax")
        if pooling == "cls":
            share = torch.from_numpy(1 / windows.count[windows.sequence[packed.windows]].astype(np.float32))
            pooled = pooled * share.to(hidden.device)[:, None]
        return pooled.new_zeros(count, pooled.shape[1]).index_add(0, order, pooled)


def _usable(states: Tensor) -> Tensor:
    """A copy that a head can be trained on: a tensor made in inference mode takes part in no gradient."""
    with torch.inference_mode(False):
        return states.clone()
