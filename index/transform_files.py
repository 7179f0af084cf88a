"""Transforms as files: written beside the index that they belong to, and taken from there for another one."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import StoreError
from index.info import TRANSFORM, IndexInfo, index_folder, rebuild
from index.places import Place, place
from index.store import Store
from index.transforms import FORMAT, Kind, Transform, parse_kind


def describe(transform: Transform, asked: str | Path) -> dict[str, Any]:
    """What index.json says of a transform.

    Args:
        asked: how the user named it.
    """
    return {
        "kind": transform.kind,
        "asked": str(asked) if is_file(asked) else str(parse_kind(str(asked))),
        "reason": transform.reason,
        "dimension": transform.dimension,
        "sha256": transform.digest,
        **transform.learned,
    }


def is_file(asked: str | Path) -> bool:
    """Whether a transform is asked for by its file."""
    return str(asked).endswith(".npz")


def find(asked: str | Path, fingerprint: str, dimension: int) -> Kind | Transform:
    """The kind that is asked for, or the transform of a file.

    Args:
        fingerprint: of the embeddings to transform; `dimension` is theirs too.

    Raises:
        StoreError: an unknown kind; a file that cannot be read, or was learned from other embeddings.
    """
    if not is_file(asked):
        return parse_kind(str(asked))
    made = load(place(asked))
    if (made.fingerprint, made.dimension) != (fingerprint, dimension):
        raise StoreError(
            f"{asked}: was learned from vectors of another model, layer or pooling (fingerprint "
            f"{made.fingerprint[:12] or 'missing'}, {made.dimension} values; here {fingerprint[:12]}, {dimension}), so "
            "it means nothing to these; take one of an atlas embedded alike, or --transform auto"
        )
    return made


def save(transform: Transform, path: Path) -> None:
    """Write a transform as .npz: mean (D,), matrix (D, E), and what it is as JSON; readable by NumPy alone."""
    about = {
        "format": FORMAT,
        "kind": transform.kind,
        "dimension": transform.dimension,
        "fingerprint": transform.fingerprint,
        "learned": transform.learned,
    }
    arrays = {name: array for name in ("mean", "matrix") if (array := getattr(transform, name)) is not None}
    with path.open("wb") as stream:
        np.savez(stream, about=np.array(json.dumps(about)), **arrays)


def load(path: Place) -> Transform:
    """Read a transform.

    Raises:
        StoreError: the file is missing, damaged, or no transform.
    """
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            about = json.loads(str(file["about"][()]))
            mean, matrix = (file.get(name) for name in ("mean", "matrix"))
        if about["format"] != FORMAT:
            raise StoreError(f"{path}: a transform of format {about['format']}, this version reads {FORMAT}")
        made = Transform(
            about["kind"], about["dimension"], mean, matrix, about["fingerprint"], f"from {path}", about["learned"]
        )
        _check(made)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path}: cannot be read as a transform ({error}); give a transform.npz of an index"
        ) from error
    return made


def _check(made: Transform) -> None:
    """Raises ValueError where the parts do not fit each other."""
    if made.kind == "none":
        return
    if made.mean is None or made.mean.shape != (made.dimension,):
        raise ValueError("its mean does not fit its dimension")
    if made.matrix is not None and (made.matrix.ndim != 2 or made.matrix.shape[0] != made.dimension):
        raise ValueError("its matrix does not fit its dimension")
    if not all(np.isfinite(array).all() for array in (made.mean, made.matrix) if array is not None):
        raise ValueError("it holds values that are not finite")


def of_index(store: Store, info: IndexInfo) -> Transform:
    """The transform of an index."""
    if info.transform["kind"] == "none":
        return Transform("none", info.dimension)
    file = index_folder(store) / info.version / TRANSFORM
    transform = load(file)
    if (transform.digest, transform.out_dimension) != (info.transform["sha256"], info.dimension):
        raise StoreError(f"{file}: is not the transform of this index; build it again: {rebuild(store, info)}")
    return transform
