"""Which examples make a batch, and the learning rate of every step; both follow from the seed alone."""

from __future__ import annotations

import math

import numpy as np

_POOL = 50
"""Batches whose examples are sorted by length together: enough for equal lengths to meet, few enough to stay random."""


def epoch_batches(
    places: np.ndarray, lengths: np.ndarray, batch_tokens: int, *, seed: int, epoch: int, by_length: bool = True
) -> list[list[int]]:
    """The batches of an epoch, in random order.

    Args:
        places: of the examples.
        lengths: nucleotides of all examples, by place.
        batch_tokens: tokens of a batch at most, special tokens counted; one example at least.
        seed, epoch: of the order.
        by_length: put examples of like length side by side, which attention over packed sequences runs faster on.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(places)
    if not by_length:
        return _cut(order, lengths, batch_tokens)
    batches: list[list[int]] = []
    for pool in _cut(order, lengths, batch_tokens * _POOL):
        # Stable, so that examples of one length stay in random order.
        pool_ = np.asarray(pool)[np.argsort(lengths[pool], kind="stable")]
        batches += _cut(pool_, lengths, batch_tokens)
    return [batches[k] for k in random.permutation(len(batches))]


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
