"""One pass of the trunk that feeds any number of consumers.

Legend: S sequences, L tokens of one sequence, T packed tokens, D hidden size, X whatever a consumer computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.alphabet import Alphabet, Tokens
from model.encoder import AidoRna
from model.errors import SequenceError
from model.packing import Batch, batches
from model.pooling import PooledWindows, Pooling, pool
from model.transfer import Arrivals, to_device
from model.windows import Windows, join, mean_weights


@dataclass(frozen=True)
class Reading:
    """Sequences as the encoder reads them: tokenised, cut into windows, in batches of a token budget.

    Attributes:
        fill: whether the batches are filled up to the budget, see `model.packing.batches`.
    """

    tokens: Tokens
    windows: Windows
    alphabet: Alphabet
    max_tokens: int
    device: torch.device
    fill: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self) -> Iterator[Batch]:
        """Packed batches, longest windows first."""
        return batches(
            self.tokens,
            self.windows,
            self.alphabet,
            max_tokens=self.max_tokens,
            device=self.device,
            fill=self.fill,
        )

    def kept_ids(self, index: int) -> np.ndarray:
        """Ids of what is read of a sequence, <cls> and <eos> included."""
        row = self.tokens[index]
        return np.concatenate([row[: int(self.windows.kept[index]) + 1], row[-1:]])

    def kept_text(self, index: int) -> str:
        """What is read of a sequence as letters, one for each nucleotide: N for <mask> and <unk>."""
        names = (self.alphabet.tokens[i] for i in self.kept_ids(index)[1:-1].tolist())
        return "".join(name if len(name) == 1 else "N" for name in names)


class Consumer(Protocol):
    """Takes one hidden state of every batch."""

    layer: int

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """Take the (T, D) state `layer` of a batch."""


def run(encoder: AidoRna, reading: Reading, consumers: Sequence[Consumer]) -> None:
    """Run the trunk once over everything, only as far up as somebody listens."""
    top = max(consumer.layer for consumer in consumers)
    with torch.inference_mode():
        for batch in reading.batches():
            for number, state in enumerate(encoder.states(batch.ids, batch.filled)):
                for consumer in consumers:
                    if consumer.layer == number:
                        consumer.add(batch, state[: batch.layout.tokens])
                if number == top:
                    break


class Rows:
    """A row for every token: `compute` of its state, (T, D) -> (T, X); windows are joined.

    Args:
        windows: how the sequences are cut.
        layer: which state.
        compute: the state itself if None; states, which are large, are waited for, and what is made of them is not.
    """

    def __init__(self, windows: Windows, layer: int, compute: Callable[[Tensor], Tensor] | None = None) -> None:
        self.layer = layer
        self._windows = windows
        self._compute = compute
        self._parts: list[np.ndarray] = [np.empty(0)] * len(windows)
        self._coming = Arrivals(self._keep)

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """See `Consumer`."""
        if self._compute is None:
            self._keep(batch, to_numpy(hidden))
        else:
            self._coming.add(batch, self._compute(hidden))

    def _keep(self, batch: Batch, values: np.ndarray) -> None:
        start = 0
        for window, length in zip(batch.windows.tolist(), batch.layout.lengths, strict=True):
            # A copy: a view would keep the whole batch in memory for as long as one sequence of it lives.
            self._parts[window] = values[start : start + length].copy()
            start += length

    def values(self) -> list[np.ndarray]:
        """One (L, X) float32 array per sequence, special tokens included."""
        self._coming.finish()
        windows, stops = self._windows, np.cumsum(self._windows.count)
        return [
            join(self._parts[stop - count : stop], windows.start[stop - count : stop], kept)
            for stop, count, kept in zip(stops.tolist(), windows.count.tolist(), windows.kept.tolist(), strict=True)
        ]


class Pooled:
    """A vector for every sequence.

    Args:
        windows: how the sequences are cut.
        layer: which state.
        pooling: see `model.pooling`.
        width: D.
        compute: applied to the (S, D) pooled vectors of windows before these are averaged.
    """

    def __init__(
        self,
        windows: Windows,
        layer: int,
        pooling: Pooling,
        width: int,
        compute: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.layer = layer
        self._pooling: Pooling = pooling
        self._compute = compute
        self._pooled = PooledWindows(windows, pooling, width)
        self._coming = Arrivals(self._pooled.add)
        self._weights = mean_weights(windows) if pooling == "mean" else []

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """See `Consumer`."""
        weights = None
        if self._weights:
            weights = to_device(np.concatenate([self._weights[w] for w in batch.windows.tolist()]), hidden.device)
        if self._compute is None:
            pooled = pool(hidden.float(), batch.layout, self._pooling, weights)
        else:
            pooled = self._compute(pool(hidden, batch.layout, self._pooling, weights))
        self._coming.add(batch.windows, pooled)

    def values(self) -> np.ndarray:
        """(S, D) float32."""
        self._coming.finish()
        return self._pooled.values()


class Windowed:
    """Hands over the states of each sequence as soon as all of its windows have been read.

    Batches go by length, so the states of sequences in several windows wait until their shortest, last ones come.

    Args:
        windows: how the sequences are cut.
        layer: which state.
        take: called with a sequence's index and, for each of its windows in order, the first nucleotide and the
            (nucleotides of the window, D) float32 states without special tokens, on the device.
        take_alike: takes sequences of one length, each read in one window, together instead: their indices, and their
            (S, L, D) states. They stand side by side in a batch.
        pairs: of nucleotides, that may be taken together.
    """

    def __init__(
        self,
        windows: Windows,
        layer: int,
        take: Callable[[int, list[tuple[int, Tensor]]], None],
        take_alike: Callable[[list[int], Tensor], None] | None = None,
        pairs: int = 0,
    ) -> None:
        self.layer = layer
        self._windows = windows
        self._take, self._take_alike, self._pairs = take, take_alike, pairs
        self._pending: dict[int, dict[int, Tensor]] = {}

    def add(self, batch: Batch, hidden: Tensor) -> None:
        """See `Consumer`."""
        windows = self._windows
        first = 0
        for run in batch.layout.runs:
            chosen = batch.windows[first : first + run.count]
            first += run.count
            states = hidden[run.start : run.stop].unflatten(0, (run.count, run.length))[:, 1:-1]
            alone = windows.count[windows.sequence[chosen]] == 1
            many = self._pairs // max(1, run.length - 2) ** 2
            if many > 1 and alone.sum() > 1:
                assert self._take_alike is not None
                for start in range(0, int(alone.sum()), many):
                    some = np.flatnonzero(alone)[start : start + many]
                    alike = states[torch.from_numpy(some).to(hidden.device)]
                    self._take_alike(windows.sequence[chosen[some]].tolist(), alike.float())
            else:
                alone[:] = False
            for place in np.flatnonzero(~alone).tolist():
                self._add_window(int(chosen[place]), states[place])

    def _add_window(self, window: int, states: Tensor) -> None:
        windows = self._windows
        sequence = int(windows.sequence[window])
        if windows.count[sequence] == 1:
            self._take(sequence, [(0, states.float())])
            return
        # Windows wait in the machine's memory, not on the device, and as copies: a view would keep the batch.
        parts = self._pending.setdefault(sequence, {})
        parts[window] = states.float().cpu().clone()
        if len(parts) == windows.count[sequence]:
            del self._pending[sequence]
            own = [(int(windows.start[w]), parts[w].to(states.device)) for w in sorted(parts)]
            self._take(sequence, own)


def refuse_nan(values: np.ndarray, index: int, what: str) -> None:
    """Refuse what is no number: an index of the largest would make a class of it.

    Raises:
        SequenceError: a value is NaN.
    """
    if np.isnan(values).any():
        raise SequenceError(
            f"{what} gives no numbers (NaN) for sequence {index + 1} of the list; float16 overflows in some models: "
            "compute in float32 or bfloat16, else the weights are damaged",
            index=index,
        )


def to_numpy(x: Tensor) -> np.ndarray:
    """As float32 on the CPU."""
    return x.float().cpu().numpy()
