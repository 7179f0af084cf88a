"""Have a fresh structure head begin with what says most about pairs: which letters the two nucleotides have.

Of the many dimensions of a trunk's states a few hold the letters. A head whose first map is random sees them as a small
part of each channel, and first has to find them. Here the letters are found by least squares from the states, and each
channel begins with random numbers for the four letters of i and the four of j, beside a random map of the states as
before: the convolutions then learn which letters pair from the first step on. The form of the head stays what it is.

Legend: n nucleotides, D hidden size, K channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from model.structure_head import StructureHead
from raypipe.finetuning.feeds import Feed

LETTERS = "ACGU"
ROWS_PER_DIMENSION = 20
"""Nucleotides that the letters are found from, for each dimension of the states."""
RIDGE = 1e-3
"""Share of the mean variance that is added to all; two dimensions that say the same are thus shared between them."""
REST = 0.25
"""What is left of the random map of the states."""


def read_letters(
    head: StructureHead, feed: Feed, sequences: Sequence[str], batches: Iterable[Sequence[int]], seed: int
) -> None:
    """Change the first map of a fresh head, in place.

    Args:
        head: of random weights.
        feed: what it reads.
        sequences: of all examples.
        batches: places of those that the letters are found from; as many are taken as are needed.
        seed: of the random numbers.
    """
    states: list[np.ndarray] = []
    texts: list[str] = []
    rows = 0
    with torch.no_grad():
        for batch in batches:
            for place, parts in zip(batch, feed(batch), strict=True):
                # A structure head is taught on sequences of one window.
                ((_, own),) = parts
                states.append(own.double().cpu().numpy())
                texts.append(sequences[place])
                rows += len(own)
            if rows >= ROWS_PER_DIMENSION * states[0].shape[1]:
                break
        if not states:
            return
        x = np.concatenate(states)
        letters = np.array(list("".join(texts)))[:, None] == np.array(list(LETTERS))
        x, wanted = x - x.mean(0), letters - letters.mean(0)
        gram = x.T @ x
        ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)
        found = np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ wanted).T  # (4, D)
        weight = head.projection.weight
        draws = torch.randn(2, len(weight), len(LETTERS), generator=torch.Generator().manual_seed(seed))
        weight.mul_(REST)
        for side in (0, 1):
            # Columns of i and j take turns, see StructureHead.
            weight[:, side::2] += (draws[side].double() @ torch.from_numpy(found)).to(weight)
