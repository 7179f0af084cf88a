"""Which examples make a batch, and the learning rate of every step; both follow from the seed alone."""

from __future__ import annotations

import math

import numpy as np


def epoch_batches(
    places: np.ndarray, lengths: np.ndarray, batch_tokens: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch, in random order.

    They are not sorted by length, although attention over packed sequences would run faster: classes and families have
    lengths of their own, and batches of one class each teach little.

    Args:
        places: of the examples.
        lengths: nucleotides of all examples, by place.
        batch_tokens: tokens of a batch at most, special tokens counted; one example at least.
        seed, epoch: of the order.
    """
    return _cut(np.random.default_rng([seed, epoch]).permutation(places), lengths, batch_tokens)


def plain_batches(places: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Batches of what is measured, by length."""
    return _cut(places[np.argsort(-lengths[places], kind="stable")], lengths, batch_tokens)


def learning_rate(progress: float, warmup: float) -> float:
    """Share of the highest learning rate: rises linearly, then falls as a cosine to 0.

    Args:
        progress: share of the whole run that is done, from 0 to 1.
        warmup: share in which it rises.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _cut(order: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    found: list[list[int]] = []
    spent = 0
    for place in order.tolist():
        tokens = int(lengths[place]) + 2
        if not found or spent + tokens > batch_tokens:
            found.append([])
            spent = 0
        found[-1].append(place)
        spent += tokens
    return found
