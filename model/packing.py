"""Packing: windows laid end to end, in batches of a token budget, equal lengths side by side.

Legend: S segments of a batch (one window each), L tokens of a segment, T packed tokens, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from model.alphabet import Alphabet, Tokens
from model.transfer import to_device
from model.windows import Windows

FILLER = 128
"""Tokens of the segments that fill a batch up: one tile of the attention kernel, so that they cost next to nothing."""


@dataclass(frozen=True)
class Run:
    """Consecutive segments of one length: tokens [start, start + count * length)."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Layout:
    """Where the segments of a packed batch lie.

    Attributes:
        lengths: tokens of each segment, S of them.
        runs: the same as runs of equal lengths.
        cu_seqlens: (S + 1,) int32, cumulative lengths, as varlen attention takes them.
        positions: (T,) int64, each token's place in its own segment.
        filled: whether the batch was filled up to a constant number of tokens, see `batches`.
    """

    lengths: tuple[int, ...]
    runs: tuple[Run, ...]
    cu_seqlens: torch.Tensor
    positions: torch.Tensor
    filled: bool = False

    @classmethod
    def of(cls, lengths: list[int], device: torch.device | str = "cpu", *, filled: bool = False) -> Layout:
        """The layout of segments of these many tokens, in this order."""
        ends = np.cumsum([0, *lengths])
        positions = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        runs: list[Run] = []
        start = 0
        for length, group in groupby(lengths):
            runs.append(Run(start, len(list(group)), length))
            start = runs[-1].stop
        return cls(
            lengths=tuple(lengths),
            runs=tuple(runs),
            cu_seqlens=to_device(ends.astype(np.int32), device),
            positions=to_device(positions, device),
            filled=filled,
        )

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)


@dataclass(frozen=True)
class Batch:
    """One packed forward.

    Attributes:
        windows: (S,) which windows, as indices into the Windows they come from.
        ids: (T,) int64 token ids on the device, those that fill the batch up included.
        layout: where each window lies; the first of the T tokens.
        filled: the same with the segments that fill the batch up, which the encoder is given.
    """

    windows: np.ndarray
    ids: torch.Tensor
    layout: Layout
    filled: Layout


def batches(
    tokens: Tokens,
    windows: Windows,
    alphabet: Alphabet,
    *,
    max_tokens: int,
    device: torch.device,
    fill: bool = False,
) -> Iterator[Batch]:
    """Pack windows, longest first, into batches of at most `max_tokens` tokens.

    A window longer than the budget makes a batch of its own. Longest first: if memory is too small, it shows at once.

    Args:
        tokens: the tokenised sequences.
        windows: how they are cut.
        alphabet: gives the ids of <cls> and <eos> that frame a window inside a sequence.
        max_tokens: budget of one batch, special tokens counted.
        device: where the batch goes.
        fill: bring every batch up to exactly `max_tokens` with segments that mean nothing, if there is enough for one
            full batch; kernels are then compiled, and chosen by their libraries, once and for all batches alike.
    """
    order = np.argsort(-windows.length, kind="stable")
    size = windows.length + 2
    cumulative = np.concatenate([[0], np.cumsum(size[order])])
    fill = fill and cumulative[-1] >= max_tokens
    begin = 0
    while begin < len(order):
        fits = int(np.searchsorted(cumulative, cumulative[begin] + max_tokens, side="right")) - 1
        end = max(fits, begin + 1)
        chosen = order[begin:end]
        lengths = size[chosen]
        stops = np.cumsum(lengths)
        starts = stops - lengths
        source = tokens.offsets[windows.sequence[chosen]] + windows.start[chosen]
        ids = tokens.ids[np.arange(stops[-1]) + np.repeat(source - starts, lengths)].astype(np.int64)
        ids[starts] = alphabet.id["<cls>"]
        ids[stops - 1] = alphabet.id["<eos>"]
        layout = filled = Layout.of(lengths.tolist(), device)
        if fill and (lacking := max_tokens - len(ids)) >= 0:
            filler = [FILLER] * (lacking // FILLER) + [lacking % FILLER] * (lacking % FILLER > 0)
            filled = Layout.of([*layout.lengths, *filler], device, filled=True)
            ids = np.concatenate([ids, np.full(lacking, alphabet.id["<pad>"], np.int64)])
        yield Batch(chosen, to_device(ids, device), layout, filled)
        begin = end
