"""Vectors of a table's sequences, computed, or read back where an earlier evaluation left them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from index.store import Pooling
from raypipe.answer_files import replacing
from raypipe.checkpoints import Checkpoint
from raypipe.errors import RaypipeError
from raypipe.evaluation.embedding import computation, embed_all, load_model
from raypipe.evaluation.settings import RetrievalSettings


def vectors_of(
    checkpoint: Checkpoint,
    sequences: Sequence[str],
    which: Sequence[tuple[Pooling, int]],
    settings: RetrievalSettings,
    say: Callable[[str], None],
) -> list[np.ndarray]:
    """(n, D) float32 for each (pooling, layer) of `which`.

    Raises:
        RaypipeError: the folder of `--cache` cannot be used, or a file in it is damaged.
    """
    files = {one: _file(checkpoint, sequences, one, settings) for one in which}
    missing = [one for one, file in files.items() if file is None or not file.exists()]
    made: dict[tuple[Pooling, int], np.ndarray] = {}
    if missing:
        made = dict(
            zip(missing, embed_all(load_model(checkpoint, settings), sequences, missing, settings, say), strict=True)
        )
    for one, file in files.items():
        if one in missing and file is not None:
            _make(file.parent)
            with replacing(file) as stream:
                np.save(stream, made[one], allow_pickle=False)
        elif file is not None:
            say(f"{checkpoint.name}, {one[0]}, layer {one[1]}: vectors out of {file}")
            made[one] = _read(file, (len(sequences), checkpoint.config.hidden_size))
    return [made[one] for one in which]


def _file(
    checkpoint: Checkpoint, sequences: Sequence[str], one: tuple[Pooling, int], settings: RetrievalSettings
) -> Path | None:
    """A name that says all that the vectors depend on."""
    if settings.cache is None:
        return None
    pooling, layer = one
    about = [checkpoint.fingerprint, settings.on_long, computation(settings)[1], *sequences]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    layer %= checkpoint.config.num_layers + 1
    return settings.cache / f"{checkpoint.name}-{pooling}-{layer}-{digest}.npy"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RaypipeError(f"--cache {folder}: cannot be made ({error.strerror}); name another folder") from error


def _read(file: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RaypipeError(f"{file}: damaged ({error}); delete it, and it is made again") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise RaypipeError(f"{file}: holds {vectors.dtype} {vectors.shape}, not float32 {shape}; delete it")
    return vectors
