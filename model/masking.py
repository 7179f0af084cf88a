"""The masking of pre-training: which nucleotides are hidden, and behind what.

After BERT (Devlin et al. 2019, section 3.1), as AIDO.RNA was trained: 15 % of the nucleotides are asked for; of these
80 % become <mask>, 10 % another nucleotide, 10 % stay as they are.

Legend: S sequences, T packed tokens.
"""

from __future__ import annotations

import numpy as np

from model.alphabet import Alphabet, Tokens
from model.errors import ModelError

IGNORED = -100
"""The label of a token that is not asked for."""


def mask_tokens(
    tokens: Tokens,
    alphabet: Alphabet,
    rng: np.random.Generator,
    *,
    rate: float = 0.15,
    mask: float = 0.8,
    random: float = 0.1,
) -> tuple[Tokens, np.ndarray]:
    """Choose nucleotides to ask for, and hide them.

    Only A, C, G and U are ever chosen or put in: never a special token, never an ambiguity letter. Of a sequence with n
    of them, rate * n are chosen, uniformly and without repetition. Where that is not a whole number it is rounded up
    or down by chance, so that the expectation is exactly rate * n; but a sequence with any nucleotide gives at least
    one, so that no sequence is read for nothing (below 1 / rate nucleotides this raises the share). What becomes of a
    chosen one is drawn for each alone.

    Args:
        tokens: packed sequences; not changed.
        alphabet: gives the ids.
        rng: the only source of chance: the same state and the same tokens give the same result.
        rate: share of the nucleotides that is chosen, above 0, at most 1.
        mask: share of the chosen that becomes <mask>.
        random: share of the chosen that becomes one of the three other nucleotides, each as likely. The rest stays.

    Returns:
        The masked sequences, and (T,) int64 labels: the id that stood at a chosen place, -100 everywhere else.

    Raises:
        ModelError: shares that make no sense.
    """
    if not 0 < rate <= 1:
        raise ModelError(f"the rate of masking must be above 0 and at most 1, not {rate}")
    if not (mask >= 0 and random >= 0 and mask + random <= 1 + 1e-9):
        raise ModelError(f"the shares mask ({mask}) and random ({random}) must not be negative, nor exceed 1 together")
    place = np.full(256, len(alphabet.nucleotides), dtype=np.uint8)
    place[alphabet.nucleotides] = np.arange(len(alphabet.nucleotides))
    candidates = np.flatnonzero(place[tokens.ids] < len(alphabet.nucleotides))
    chosen = candidates[_draw(np.searchsorted(candidates, tokens.offsets), rate, rng)]

    labels = np.full(len(tokens.ids), IGNORED, dtype=np.int64)
    labels[chosen] = tokens.ids[chosen]
    ids = tokens.ids.copy()
    fate = rng.random(len(chosen))
    step = rng.integers(1, len(alphabet.nucleotides), len(chosen))  # always drawn: other shares, the same places
    ids[chosen[fate < mask]] = alphabet.id["<mask>"]
    swapped = (fate >= mask) & (fate < mask + random)
    old = place[ids[chosen[swapped]]]
    ids[chosen[swapped]] = alphabet.nucleotides[(old + step[swapped]) % len(alphabet.nucleotides)]
    return Tokens(ids, tokens.offsets), labels


def _draw(bounds: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Indices drawn without repetition from each of the groups [bounds[s], bounds[s + 1]), in ascending order."""
    sizes = np.diff(bounds)
    wanted = np.floor(rate * sizes + rng.random(len(sizes))).astype(np.int64)
    wanted = np.minimum(np.maximum(wanted, 1), sizes)
    # A random order inside every group by one sort: the group in the high bits of the key, chance in the others.
    group = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    bits = np.uint64(max(1, len(sizes).bit_length()))
    key = rng.integers(0, 2**64, bounds[-1], dtype=np.uint64) >> bits
    key |= group << (np.uint64(64) - bits)
    order = np.argsort(key, kind="stable")
    rank = np.arange(bounds[-1]) - np.repeat(bounds[:-1], sizes)
    return np.sort(order[rank < np.repeat(wanted, sizes)])
