"""Which examples make a batch, and the learning rate of every step; both follow from the seed alone."""

from __future__ import annotations

import math

import numpy as np

_SPECIAL = 2
"""Tokens of a sequence besides its nucleotides."""


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
    return by_cost(np.random.default_rng([seed, epoch]).permutation(places), lengths + _SPECIAL, batch_tokens)


def plain_batches(places: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Batches of what is measured, by length."""
    return by_cost(places[np.argsort(-lengths[places], kind="stable")], lengths + _SPECIAL, batch_tokens)


def learning_rate(progress: float, warmup: float) -> float:
    """Share of the highest learning rate: rises linearly, then falls as a cosine to 0.

    Args:
        progress: share of the whole run that is done, from 0 to 1.
        warmup: share in which it rises.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def by_cost(order: np.ndarray, costs: np.ndarray, budget: int) -> list[list[int]]:
    """Cut places into batches that cost no more than a budget; one that costs more is a batch of its own.

    Args:
        order: of the places.
        costs: of all of them, by place.
        budget: of a batch.
    """
    found: list[list[int]] = []
    spent = 0
    for place in order.tolist():
        cost = int(costs[place])
        if not found or spent + cost > budget:
            found.append([])
            spent = 0
        found[-1].append(place)
        spent += cost
    return found
