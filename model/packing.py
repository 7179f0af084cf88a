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
from model.windows import Windows


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
            cu_seqlens=torch.from_numpy(ends.astype(np.int32)).to(device),
            positions=torch.from_numpy(positions).to(device),
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
        ids: (T,) int64 token ids on the device.
        layout: where each window lies.
    """

    windows: np.ndarray
    ids: torch.Tensor
    layout: Layout


def batches(
    tokens: Tokens, windows: Windows, alphabet: Alphabet, *, max_tokens: int, device: torch.device
) -> Iterator[Batch]:
    """Pack windows, longest first, into batches of at most `max_tokens` tokens.

    A window longer than the budget makes a batch of its own. Longest first: if memory is too small, it shows at once.

    Args:
        tokens: the tokenised sequences.
        windows: how they are cut.
        alphabet: gives the ids of <cls> and <eos> that frame a window inside a sequence.
        max_tokens: budget of one batch, special tokens counted.
        device: where the batch goes.
    """
    order = np.argsort(-windows.length, kind="stable")
    size = windows.length + 2
    cumulative = np.concatenate([[0], np.cumsum(size[order])])
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
        yield Batch(chosen, torch.from_numpy(ids).to(device), Layout.of(lengths.tolist(), device))
        begin = end
