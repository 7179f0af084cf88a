"""Views of a sequence for contrastive learning: a stretch of it, with the changes that evolution makes.

Legend: L nucleotides of one sequence.
"""

from __future__ import annotations

import numpy as np

INSERTED = 0.15
DELETED = 0.15
"""Shares of the changes; the rest are substitutions, by far the commonest change between related RNAs."""


def view(
    sequence: np.ndarray,
    nucleotides: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: float,
    mutate: float,
    longest: int,
) -> np.ndarray:
    """A random stretch of a sequence, randomly mutated.

    Args:
        sequence: (L,) token ids of nucleotides; not changed.
        nucleotides: (4,) ids that changes are drawn from.
        rng: the only source of chance.
        crop: a stretch has at least this share of the sequence, each length as likely.
        mutate: the share of changed places is drawn from 0 to this.
        longest: nucleotides of a stretch at most.

    Returns:
        (L',) ids, never empty unless `sequence` is; a little longer than `longest` where insertions fall so.
    """
    whole = len(sequence)
    length = min(longest, int(np.ceil(whole * rng.uniform(crop, 1))))
    start = int(rng.integers(0, whole - length + 1))
    piece = sequence[start : start + length].copy()
    changed = rng.random(length) < mutate * rng.random()
    kind = rng.random(length)
    drawn = nucleotides[rng.integers(0, len(nucleotides), length)]
    deleted = changed & (kind < DELETED)
    inserted = changed & (kind >= DELETED) & (kind < DELETED + INSERTED)
    substituted = changed & ~deleted & ~inserted
    piece[substituted] = drawn[substituted]
    if deleted.all():
        deleted[:] = False
    copies = np.where(deleted, 0, np.where(inserted, 2, 1))
    result = np.repeat(piece, copies)
    # Of the two copies of a place with an insertion the second is the inserted one.
    result[(np.cumsum(copies) - 1)[inserted]] = drawn[inserted]
    return result
