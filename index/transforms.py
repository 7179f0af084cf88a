"""Post-processing of vectors, learned from the store when it is indexed: centring, whitening, principal axes.

The mean vectors of a masked language model share one large common part and a few strong directions, so the cosines of
unrelated sequences are all near 1. Subtracting the mean and evening out the directions (Su et al. 2021, "Whitening
sentence representations for better semantics and faster retrieval") lets cosines tell families apart.

A transform is the affine map y = (x / |x| - mean) @ matrix, followed by y / |y|. Vectors are scaled to length 1 first,
so that the length of a query does not matter and no long vector rules the covariance.

NumPy's eigh in float64 rather than faiss.PCAMatrix: that one sums in float32, leaves the signs of the axes to LAPACK
and knows no shrinkage; and a transform as two plain arrays can be used by any program, without FAISS.

Shapes: n rows, D values of a vector as stored, E values of a transformed one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from index.errors import StoreError
from index.vectors import BATCH_BYTES, Part, batches, unit_rows
from index.whitening import oas_shrinkage, principal_axes

FORMAT = 1
SEED = 20_261_122
NAMES = ("auto", "none", "center", "whiten", "pca")
# Measured on vectors of three kinds (D 192, 256, 1024) over Rfam seeds, each store whitened by its own rows, hits of a
# query's own cluster left out: from some 50 rows on whitening finds more families than raw cosines do, or nearly as
# many where the axes were even before; below 25 it may find fewer. D does not matter, since shrinkage stands in for
# missing rows. Centring alone was hardly ever better than nothing, so auto does not take it.
ROWS_TO_WHITEN = 50
# Below these vectors of length 1 differ by rounding only: in all their variance, and one from the mean (squared).
NO_SPREAD, NO_DISTANCE = 1e-10, 1e-14


class Kind(NamedTuple):
    """What transform is asked for: a name, and for whiten and pca how many axes to keep (all if None)."""

    name: str
    axes: int | None = None

    def __str__(self) -> str:
        return self.name if self.axes is None else f"{self.name}:{self.axes}"


def parse_kind(text: str) -> Kind:
    """The kind that `text` names: auto, none, center, whiten, whiten:64, pca:64.

    Raises:
        StoreError: it names none.
    """
    name, colon, number = text.strip().lower().partition(":")
    if name in NAMES and not colon and name != "pca":
        return Kind(name)
    if name in ("whiten", "pca") and number.isdecimal() and int(number) > 0:
        return Kind(name, int(number))
    raise StoreError(
        f"transform {text!r}: unknown; use auto, none, center, whiten, whiten:DIM or pca:DIM (DIM axes, such as "
        "whiten:64), or a file transform.npz of another atlas"
    )


@dataclass(frozen=True, eq=False)
class Transform:
    """A learned map of vectors; see the head of this file.

    Attributes:
        kind: none, center, whiten, whiten:DIM or pca:DIM; never auto.
        dimension: D.
        mean: (D,) float32, of vectors of length 1; None for none.
        matrix: (D, E) float32; None where it would be the identity.
        fingerprint: of the embeddings it was learned from; empty where it belongs to none.
        reason: why this kind.
        learned: from how many rows, by what seed and with what shrinkage.
    """

    kind: str
    dimension: int
    mean: np.ndarray | None = None
    matrix: np.ndarray | None = None
    fingerprint: str = ""
    reason: str = ""
    learned: dict[str, Any] = field(default_factory=dict)

    @property
    def out_dimension(self) -> int:
        """E, the values of a transformed vector."""
        return self.dimension if self.matrix is None else self.matrix.shape[1]

    @property
    def digest(self) -> str:
        """sha256 of the map itself: two transforms with the same one give the same scores."""
        made = hashlib.sha256(f"{FORMAT} {self.dimension}".encode())
        for array in (self.mean, self.matrix):
            made.update(b"-" if array is None else np.ascontiguousarray(array, dtype="<f4").tobytes())
        return made.hexdigest()

    @cached_property
    def _wide(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mean and matrix in float64."""
        return tuple(None if each is None else each.astype(np.float64) for each in (self.mean, self.matrix))  # pyright: ignore[reportReturnType]

    def apply(
        self, vectors: np.ndarray, labels: np.ndarray | None = None, what: str = "vector", *, precise: bool = True
    ) -> np.ndarray:
        """Transformed vectors of length 1, float32 (n, E).

        Args:
            vectors: (n, D), of any length.
            labels: (n,) how to name a row in an error; by default its number.
            what: what the rows are: the start of an error.
            precise: sum in float64, so that a vector becomes the same to the bit whatever batch it stands in. Else in
                float32, three times as fast: good enough for what is rounded to codes.

        Raises:
            StoreError: another dimension; a row that is zero or not finite, or has no direction once it is transformed.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise StoreError(
                f"vectors of shape {vectors.shape}: this transform takes vectors of {self.dimension} values"
            )
        labels = np.arange(len(vectors)) if labels is None else labels
        units = unit_rows(vectors, labels, what)
        if self.mean is None:
            return units
        result = np.empty((len(units), self.out_dimension), dtype=np.float32)
        step = max(1, BATCH_BYTES // (8 * self.dimension))
        mean, matrix = self._wide if precise else (self.mean, self.matrix)
        for start in range(0, len(units), step):
            block = units[start : start + step] - mean
            moved = block if matrix is None else block @ matrix
            lengths = np.sqrt(np.einsum("nd,nd->n", moved, moved))
            lost = (np.einsum("nd,nd->n", block, block) < NO_DISTANCE) | (lengths == 0)
            if lost.any():
                raise StoreError(
                    f"{what} {labels[start + int(lost.argmax())]}: has no direction left once the mean is subtracted "
                    f"(transform {self.kind}); index with --transform none"
                )
            result[start : start + step] = moved / lengths[:, None]
        return result


def fit(vectors: np.ndarray, kind: str, *, seed: int = SEED, fingerprint: str = "") -> Transform:
    """Learn a transform.

    Args:
        vectors: (n, D) as stored, of any length; of more than `sample_size(D)` rows a seeded choice is used.
        kind: as `parse_kind` takes it; auto resolves by `choose_kind`.
        fingerprint: of the embeddings that the vectors belong to.

    Raises:
        StoreError: an unknown kind, too few rows for it, more axes than D, or rows without a direction or any spread.
    """
    asked = parse_kind(kind)
    num_rows, dimension = vectors.shape
    chosen, reason = choose_kind(num_rows) if asked.name == "auto" else (asked, "as asked")
    if chosen.name == "none":
        return Transform("none", dimension, fingerprint=fingerprint, reason=reason)
    check_kind(chosen, num_rows, dimension)
    limit = sample_size(dimension)
    if num_rows > limit:
        vectors = vectors[np.sort(np.random.default_rng(seed).permutation(num_rows)[:limit])]
    units = unit_rows(vectors, np.arange(len(vectors)), "row")
    mean = units.mean(axis=0, dtype=np.float64)
    variances, axes = principal_axes(units, mean)
    if variances.sum() < NO_SPREAD:
        if asked.name != "auto":
            raise StoreError(f"transform {kind!r}: all vectors are alike, so there is nothing to learn; use none")
        return Transform("none", dimension, fingerprint=fingerprint, reason="all vectors are alike")
    learned: dict[str, Any] = {"rows": len(units), "seed": seed}
    matrix = None
    if chosen.name == "whiten":
        learned["shrinkage"] = shrinkage = oas_shrinkage(variances, len(units))
        matrix = axes / np.sqrt((1 - shrinkage) * variances + shrinkage * variances.mean())
    elif chosen.name == "pca":
        matrix = axes
    if matrix is not None:
        matrix = np.ascontiguousarray(matrix[:, : chosen.axes], dtype=np.float32)
    return Transform(str(chosen), dimension, mean.astype(np.float32), matrix, fingerprint, reason, learned)


def transformed(
    parts: Sequence[Part], transform: Transform, *, precise: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stream stored vectors as they are indexed, about 32 MiB at a time: seq_ids (n,), vectors (n, E) of length 1.

    Args:
        precise: as `Transform.apply` takes it.

    Raises:
        StoreError: a stored vector is zero, not finite or left without a direction; the message names file and seq_ids.
    """
    for path, seq_ids, vectors in batches(parts, transform.dimension):
        yield seq_ids, transform.apply(vectors, seq_ids, f"{path}: seq_id", precise=precise)


def sample_size(dimension: int) -> int:
    """Rows that a transform of D values is learned from at most; from 12 D on, more changed nothing measurable."""
    return max(20_000, 32 * dimension)


def choose_kind(num_rows: int) -> tuple[Kind, str]:
    """What auto is for so many rows, and why."""
    if num_rows >= ROWS_TO_WHITEN:
        return Kind("whiten"), f"at least {ROWS_TO_WHITEN} vectors"
    return Kind("none"), f"fewer than {ROWS_TO_WHITEN} vectors"


def check_kind(kind: Kind, num_rows: int, dimension: int) -> None:
    """Raises StoreError where a kind needs more axes or rows than there are."""
    if kind.axes is not None and kind.axes > dimension:
        raise StoreError(f"transform {str(kind)!r}: the vectors have {dimension} axes only; use at most {dimension}")
    needed = max(ROWS_TO_WHITEN if kind.name == "whiten" else 2, (kind.axes or 0) + 1)
    if num_rows < needed:
        raise StoreError(
            f"transform {str(kind)!r}: needs at least {needed:,} vectors to learn, there are {num_rows:,}; use auto, "
            "center or none"
        )
