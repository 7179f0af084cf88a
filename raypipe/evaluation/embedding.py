"""Vectors of the same sequences by several layers and poolings of a model, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from index.store import Pooling
from raypipe.checkpoints import Checkpoint
from raypipe.errors import UsageError
from raypipe.evaluation.settings import EvaluationSettings

# Forward passes of one chunk: between two of them progress can be said.
CHUNK_PASSES = 16
SAY_EVERY_S = 10.0


def computation(settings: EvaluationSettings) -> tuple[str, str]:
    """Device (by default CUDA where there is one) and type of the computation."""
    import torch

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, settings.dtype or ("bfloat16" if device.startswith("cuda") else "float32")


def load_model(checkpoint: Checkpoint, settings: EvaluationSettings) -> Any:
    """The model on its device, in its type of computation."""
    from model import load

    return load(checkpoint.path, *computation(settings))


def check_layers(checkpoint: Checkpoint, layers: Sequence[int]) -> None:
    """Refuse layers that the model does not have, before any work.

    Raises:
        UsageError: there is one.
    """
    top = checkpoint.config.num_layers
    for layer in layers:
        if layer > top:
            raise UsageError(
                f"--layer {layer}: {checkpoint.name} has the layers 0 (embeddings) to {top}; -1 is the last"
            )


def chunks(sequences: Sequence[str], tokens: int) -> Iterator[list[int]]:
    """Rows in the order of length, longest first, cut into chunks of about so many tokens."""
    chunk: list[int] = []
    size = 0
    for row in sorted(range(len(sequences)), key=lambda row: -len(sequences[row])):
        chunk.append(row)
        size += len(sequences[row]) + 2
        if size >= tokens:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def embed_all(
    model: Any,
    sequences: Sequence[str],
    which: Sequence[tuple[Pooling, int]],
    settings: EvaluationSettings,
    say: Callable[[str], None],
) -> list[np.ndarray]:
    """(n, D) float32 for each pooling and layer of `which`; the trunk runs once for all of them."""
    vectors = [np.empty((len(sequences), model.config.hidden_size), dtype=np.float32) for _ in which]
    progress = Progress(model.name, sum(len(text) + 2 for text in sequences), say)
    for rows in chunks(sequences, CHUNK_PASSES * budget(model, settings)):
        texts = [sequences[row] for row in rows]
        found = model.embed_each(texts, which, long=settings.on_long, max_tokens=settings.max_tokens)
        for whole, part in zip(vectors, found, strict=True):
            whole[rows] = part
        progress.add(sum(len(text) + 2 for text in texts))
    return vectors


def budget(model: Any, settings: EvaluationSettings) -> int:
    """Tokens of one forward pass."""
    from model.trunk import DEFAULT_MAX_TOKENS

    return settings.max_tokens or DEFAULT_MAX_TOKENS[model.device.type]


class Progress:
    """Says now and then how far a model has come."""

    def __init__(self, name: str, tokens: int, say: Callable[[str], None]) -> None:
        self._name, self._total, self._say = name, max(tokens, 1), say
        self._done = 0
        self._begin = self._said = time.monotonic()

    def add(self, tokens: int) -> None:
        """So many tokens more are done."""
        self._done += tokens
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            rate = self._done / (now - self._begin)
            self._say(f"{self._name}: {100 * self._done / self._total:.0f} % read, {rate:,.0f} tokens/s")
