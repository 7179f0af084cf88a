"""What happens to sequences longer than the context: windows, their weights, and how windows join again.

Policy "window": a sequence of n > size nucleotides is read in windows of `size` that start every `stride`
nucleotides; the last one ends with the sequence and may be shorter than `size`, though longer than `size - stride`.

Legend: S sequences, W windows, L tokens of a window (both special tokens included), D width of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.errors import ModelError, SequenceError

Long = Literal["window", "truncate", "error"]


@dataclass(frozen=True)
class Windows:
    """Which stretch of which sequence each window reads.

    Attributes:
        sequence: (W,) index of the sequence.
        start: (W,) first nucleotide read, counted from 0.
        length: (W,) nucleotides read.
        kept: (S,) nucleotides of each sequence that are read at all.
        count: (S,) windows of each sequence; those of one sequence stand together, in order.
    """

    sequence: np.ndarray
    start: np.ndarray
    length: np.ndarray
    kept: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.sequence)


def cut(lengths: np.ndarray, *, size: int, long: Long) -> Windows:
    """Cut sequences into windows.

    Args:
        lengths: (S,) nucleotides of each sequence.
        size: nucleotides that fit the context; the stride is half of it.
        long: "window"; "truncate" reads the first `size` nucleotides only; "error" refuses longer sequences.

    Raises:
        SequenceError: a sequence is longer than `size` and `long` is "error".
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if long not in ("window", "truncate", "error"):
        raise ModelError(f"long must be 'window', 'truncate' or 'error', not {long!r}")
    over = np.flatnonzero(lengths > size)
    if len(over) and long == "error":
        raise SequenceError(
            f"sequence {over[0] + 1} of the list has {lengths[over[0]]} nucleotides, the model reads {size} at a time; "
            "cut it, or choose to have it read in windows or truncated",
            index=int(over[0]),
        )
    kept = np.minimum(lengths, size) if long == "truncate" else lengths
    stride = max(1, size // 2)
    count = np.where(kept <= size, 1, 1 + -(-(kept - size) // stride))
    sequence = np.repeat(np.arange(len(lengths)), count)
    first = np.cumsum(count) - count
    start = (np.arange(len(sequence)) - first[sequence]) * stride
    return Windows(sequence, start, np.minimum(kept[sequence] - start, size), kept, count)


def coverage(starts: np.ndarray, lengths: np.ndarray, kept: int) -> np.ndarray:
    """(kept,) how many of one sequence's windows read each nucleotide."""
    covered = np.zeros(kept, dtype=np.int64)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        covered[start : start + length] += 1
    return covered


def pair_coverage(starts: np.ndarray, lengths: np.ndarray, kept: int) -> np.ndarray:
    """(kept, kept) uint8: how many of one sequence's windows read both nucleotides of each pair."""
    covered = np.zeros((kept, kept), dtype=np.uint8)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        covered[start : start + length, start : start + length] += 1
    return covered


def mean_weights(windows: Windows) -> list[np.ndarray]:
    """Weight of every token of every window in its sequence's mean; (L,) float32 each, zero on special tokens.

    A nucleotide's value is the average over the windows that cover it and the mean is over nucleotides, so a token
    weighs 1 / (windows that cover it * nucleotides of the sequence). The weights of a sequence sum to 1.
    """
    weights: list[np.ndarray] = []
    stops = np.cumsum(windows.count)
    covered: dict[int, np.ndarray] = {}
    for s in np.flatnonzero(windows.count > 1).tolist():
        own = slice(stops[s] - windows.count[s], stops[s])
        covered[s] = coverage(windows.start[own], windows.length[own], int(windows.kept[s]))
    rows = zip(windows.sequence.tolist(), windows.start.tolist(), windows.length.tolist(), strict=True)
    for sequence, start, length in rows:
        weight = np.zeros(length + 2, dtype=np.float32)
        if length:
            per_token = 1 if sequence not in covered else covered[sequence][start : start + length]
            weight[1:-1] = 1.0 / (per_token * float(windows.kept[sequence]))
        weights.append(weight)
    return weights


def join(parts: list[np.ndarray], starts: np.ndarray, kept: int) -> np.ndarray:
    """Join the windows of one sequence.

    Args:
        parts: one array (..., L, D) per window, special tokens included.
        starts: first nucleotide of each window.
        kept: nucleotides of the whole.

    Returns:
        (..., kept + 2, D): a nucleotide's row is the average over the windows that cover it; the rows of <cls> and
        <eos> are the averages over all windows.
    """
    if len(parts) == 1:
        return parts[0]
    total = np.zeros((*parts[0].shape[:-2], kept + 2, parts[0].shape[-1]), dtype=np.float32)
    lengths = np.array([part.shape[-2] - 2 for part in parts])
    for part, start, length in zip(parts, starts.tolist(), lengths.tolist(), strict=True):
        total[..., 1 + start : 1 + start + length, :] += part[..., 1:-1, :]
        total[..., 0, :] += part[..., 0, :]
        total[..., -1, :] += part[..., -1, :]
    times = np.ones(kept + 2, dtype=np.float32)
    times[1:-1] = coverage(starts, lengths, kept)
    times[[0, -1]] = len(parts)
    return total / times[:, None]
