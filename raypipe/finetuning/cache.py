"""What a frozen trunk gives, computed once and kept in a file: a row for each sequence, or for each nucleotide read.

Vectors of sequences are float32. States of nucleotides, of which there are hundreds of times more, are float16: the
last state is normed, so its values are small, and one that does not fit is an error. Legend: D hidden size.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.files import write_json
from model.windows import cut
from raypipe.disk_errors import disk_error
from raypipe.errors import RaypipeError
from raypipe.finetuning.feeds import Food, FrozenFeed
from raypipe.finetuning.folder import STATES, STATES_READY

_CHUNK_TOKENS = 65_536
_LINE_EVERY_S = 10.0
_SPARE = 2**30  # bytes of the disk that are left alone


class CachedFeed:
    """Reads what `FrozenFeed` gave, from a file that is mapped into memory.

    Args:
        feed: what computes it.
        folder: where the file goes.
        say: takes a line for the person who waits.
    """

    def __init__(self, feed: FrozenFeed, folder: Path, say: Callable[[str], None]) -> None:
        self._vectors = feed.head.kind == "sequence"
        self._device = feed.model.device
        self._windows = cut(
            np.array([len(text) for text in feed.sequences]), size=feed.model.config.context, long="window"
        )
        self._stops = np.cumsum(self._windows.count)
        rows = np.ones(len(feed.sequences), np.int64) if self._vectors else self._windows.length
        self._ends = np.cumsum(rows)
        shape = (int(self._ends[-1]), feed.model.config.hidden_size)
        computed = str(next(feed.model.module.parameters()).dtype)
        about = {"rows": shape[0], "width": shape[1], "dtype": str(_dtype(feed.head.kind)), "computed": computed}
        try:
            self._fill(feed, folder, about, say)
        except OSError as error:
            raise disk_error(folder, error) from error
        path = folder / STATES
        self._rows = np.memmap(path, _dtype(feed.head.kind), "r", shape=shape)

    def __call__(self, batch: Sequence[int]) -> Food:
        """See `raypipe.finetuning.feeds.Feed`."""
        if self._vectors:
            # A copy in torch's own memory: sums of rows that lie otherwise may be rounded otherwise.
            return torch.tensor(self._rows[np.asarray(batch)]).to(self._device)
        return [
            [
                (int(self._windows.start[window]), self._states(window))
                for window in range(self._stops[place] - self._windows.count[place], self._stops[place])
            ]
            for place in batch
        ]

    def _states(self, window: int) -> torch.Tensor:
        begin = self._ends[window] - self._windows.length[window]
        return torch.from_numpy(np.array(self._rows[begin : self._ends[window]])).to(self._device).float()

    def _fill(self, feed: FrozenFeed, folder: Path, about: dict[str, Any], say: Callable[[str], None]) -> None:
        """Compute what is not there yet; how far it is stands in a file of its own, written after the rows."""
        path, ready = folder / STATES, folder / STATES_READY
        lengths = np.array([len(text) for text in feed.sequences])
        tokens = np.cumsum(lengths)
        begin = 0
        if ready.is_file() and path.is_file():
            noted = json.loads(ready.read_text())
            done = noted.pop("sequences")
            begin = done if noted == {**about, "of": len(lengths)} else 0
        if begin == len(lengths):
            return
        file = np.memmap(path, about["dtype"], "r+" if begin else "w+", shape=(about["rows"], about["width"]))
        said = time.monotonic()
        while begin < len(lengths):
            before = tokens[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(tokens, before + _CHUNK_TOKENS, side="right")))
            found = feed(range(begin, end))
            if isinstance(found, torch.Tensor):
                rows = found.cpu().numpy()
            else:
                rows = torch.cat([states for parts in found for _, states in parts]).cpu().numpy().astype(file.dtype)
            if not np.isfinite(rows).all():
                raise RaypipeError(
                    f"what the trunk gives for one of {end - begin} sequences does not fit {file.dtype}; compute it "
                    "each time with --cache-gib 0"
                )
            stop = self._last(end)
            file[stop - len(rows) : stop] = rows
            begin = end
            if begin == len(lengths) or time.monotonic() - said >= _LINE_EVERY_S:
                said = time.monotonic()
                file.flush()
                write_json(ready, {**about, "sequences": begin, "of": len(lengths)}, folder)
                say(f"frozen trunk: {begin:,} of {len(lengths):,} sequences read")

    def _last(self, sequences: int) -> int:
        """Rows of the first so many sequences."""
        return int(self._ends[sequences - 1 if self._vectors else self._stops[sequences - 1] - 1])


def cached_bytes(kind: str, lengths: np.ndarray, context: int, width: int) -> int:
    """Size of the file."""
    rows = len(lengths) if kind == "sequence" else int(cut(lengths, size=context, long="window").length.sum())
    return rows * width * _dtype(kind).itemsize


def fits(size: int, folder: Path, limit_gib: float) -> bool:
    """Whether so many bytes may be kept in `folder`, those that are there already included."""
    path = folder / STATES
    there = path.stat().st_blocks * 512 if path.is_file() else 0
    return size <= limit_gib * 2**30 and size + _SPARE <= shutil.disk_usage(folder).free + there


def _dtype(kind: str) -> np.dtype:
    return np.dtype(np.float32 if kind == "sequence" else np.float16)
