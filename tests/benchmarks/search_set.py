"""The seeded set of vectors of the search benchmarks: what a language model's might be, as far as one can make them.

Families of power-law sizes stand in groups. A family is a 12-dimensional normal cloud in a latent space; a random tanh
network lifts that to D values. A common mean makes the cone that mean-pooled vectors lie in, and noise fills the other
directions. Queries are drawn in the same way and are not in the set. A block depends on the seed and its own number
alone: the first rows of a large set are those of a small one.

Shapes: n vectors, D values of each, L latent values, S of a family's own subspace.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from tests.benchmarks.search_vectors import BLOCK, unit

FAMILIES, GROUPS = 3000, 150
LATENT, SUBSPACE, HIDDEN = 44, 12, 512
# Sizes of families fall as 1 / rank ** SLOPE.
SLOPE = 1.0
# Spread of groups, of families in a group, and of members in a family, in the latent space.
GROUP_SPREAD, FAMILY_SPREAD, MEMBER_SPREAD = 1.2, 0.6, 0.52
# Length of the common mean beside vectors of length 1; a random pair's cosine is near MEAN**2 / (1 + MEAN**2).
MEAN = 0.72
NOISE = 0.04
# Blocks of queries are numbered from here on, those of vectors from 0.
QUERIES = 1 << 32


class Made:
    """The distribution; vectors are drawn from it block by block.

    Args:
        dimension: D.
        seed: of everything.
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension, self.seed = dimension, seed
        dice = np.random.default_rng([seed, dimension])
        groups = GROUP_SPREAD * dice.standard_normal((GROUPS, LATENT), np.float32)
        own = FAMILY_SPREAD * dice.standard_normal((FAMILIES, LATENT), np.float32)
        self._centers = groups[dice.integers(0, GROUPS, FAMILIES)] + own
        self._axes = dice.standard_normal((FAMILIES, SUBSPACE, LATENT), np.float32) * (MEMBER_SPREAD / SUBSPACE**0.5)
        shares = 1 / np.arange(1, FAMILIES + 1) ** SLOPE
        self._shares = shares / shares.sum()
        self._first = dice.standard_normal((LATENT, HIDDEN), np.float32) / LATENT**0.5
        self._second = dice.standard_normal((HIDDEN, dimension), np.float32)
        self._mean = MEAN * unit(dice.standard_normal((1, dimension), np.float32))

    def block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (BLOCK, D) float16 of length 1, and the family of each (BLOCK,)."""
        dice = np.random.default_rng([self.seed, self.dimension, number])
        family = dice.choice(FAMILIES, BLOCK, p=self._shares)
        latent = dice.standard_normal((BLOCK, SUBSPACE), np.float32)
        latent = np.einsum("ns,nsl->nl", latent, self._axes[family]) + self._centers[family]
        lifted = unit(np.tanh(latent @ self._first) @ self._second) + self._mean
        lifted += dice.standard_normal(lifted.shape, np.float32) * (NOISE / self.dimension**0.5)
        return unit(lifted).astype(np.float16), family.astype(np.int32)


def write(folder: Path, rows: int, queries: int, dimension: int, seed: int) -> None:
    """Make vectors.npy (rows, D) float16, families.npy (rows,) and queries.npy (queries, D) float32 in `folder`.

    Queries have float16's digits, as those that are rounded like what is stored.
    """
    made = Made(dimension, seed)
    folder.mkdir(parents=True, exist_ok=True)
    vectors = open_memmap(folder / "vectors.npy", "w+", np.float16, (rows, dimension))
    families = np.empty(rows, np.int32)
    for start in range(0, rows, BLOCK):
        some, family = made.block(start // BLOCK)
        end = min(rows, start + BLOCK)
        vectors[start:end], families[start:end] = some[: end - start], family[: end - start]
    vectors.flush()
    np.save(folder / "families.npy", families)
    blocks = [made.block(QUERIES + start // BLOCK)[0] for start in range(0, queries, BLOCK)]
    np.save(folder / "queries.npy", np.concatenate(blocks)[:queries].astype(np.float32))


def split(file: Path, folder: Path, rows: int, queries: int, seed: int) -> None:
    """As `write`, from a .npy file (n, D) of real vectors: some rows, shuffled, are taken out as queries."""
    given = np.load(file, mmap_mode="r")
    if given.ndim != 2 or len(given) < rows + queries:
        raise SystemExit(f"{file}: {given.shape}, but {rows} vectors and {queries} queries are asked for; lower --rows")
    order = np.random.default_rng(seed).permutation(len(given))
    folder.mkdir(parents=True, exist_ok=True)
    vectors = open_memmap(folder / "vectors.npy", "w+", np.float16, (rows, given.shape[1]))
    chosen = np.sort(order[:rows])
    for start in range(0, rows, BLOCK):
        vectors[start : start + BLOCK] = given[chosen[start : start + BLOCK]]
    vectors.flush()
    asked = given[np.sort(order[rows : rows + queries])]
    np.save(folder / "queries.npy", asked.astype(np.float16).astype(np.float32))


def head(file: Path, target: Path, rows: int) -> None:
    """Copy the first `rows` vectors of a .npy file, block by block."""
    given = np.load(file, mmap_mode="r")
    made = open_memmap(target, "w+", given.dtype, (rows, given.shape[1]))
    for start in range(0, rows, BLOCK):
        made[start : min(rows, start + BLOCK)] = given[start : min(rows, start + BLOCK)]
    made.flush()
