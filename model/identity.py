"""The fingerprint of a checkpoint: vectors of different models must never mix. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from model.alphabet import STANDARD_TOKENS, Alphabet
from model.config import config_layout, read_json
from model.errors import CheckpointError
from model.files import convert_command, find_weights
from model.registry import find, shipped_checkpoint

_BESIDE_THE_POINT = ("raypipe", "_name_or_path", "transformers_version")


def checkpoint_folder(folder_or_name: str | Path) -> Path:
    """The folder of a checkpoint.

    A text that is a registry name means that checkpoint; for a folder of the same name give a Path or `./nano`.

    Raises:
        CheckpointError: no such folder.
        ModelError: a name of the registry whose files do not ship with this package.
    """
    if isinstance(folder_or_name, str) and find(folder_or_name) is not None:
        return shipped_checkpoint(folder_or_name)
    folder = Path(folder_or_name)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is neither a checkpoint folder nor a name of the model registry")
    return folder


def read_alphabet(folder: Path) -> Alphabet:
    """The checkpoint's own vocabulary, or the standard one where it has no vocab.txt."""
    file = folder / "vocab.txt"
    return Alphabet.from_file(file) if file.is_file() else Alphabet(STANDARD_TOKENS)


def sha256(file: Path) -> bytes:
    """SHA-256 of a file's content, 32 bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def fingerprint(folder_or_name: str | Path, digest: Callable[[Path], bytes] = sha256) -> str:
    """SHA-256 over weights, vocabulary and configuration, 64 hexadecimal digits.

    It depends on contents only, so it survives moving, copying and renaming the folder. Of config.json, what says
    nothing about the arithmetic is left out (where the checkpoint came from, versions of tools).

    Args:
        folder_or_name: the checkpoint.
        digest: gives the SHA-256 of a file of weights; one that remembers it saves reading gigabytes.

    Raises:
        CheckpointError: not a folder that `load` could read.
    """
    folder = checkpoint_folder(folder_or_name)
    config = read_json(folder / "config.json")
    weights = find_weights(folder)
    layout = config_layout(config, str(folder / "config.json"))
    if weights is None or layout != "multimolecule":
        raise CheckpointError(
            f"{folder} holds no model.safetensors of the multimolecule layout; convert it once, then use the result: "
            f"{convert_command(folder)}"
        )
    settings = {key: value for key, value in config.items() if key not in _BESIDE_THE_POINT}
    whole = hashlib.sha256()
    for part in (json.dumps(settings, sort_keys=True), read_alphabet(folder).to_text()):
        whole.update(hashlib.sha256(part.encode()).digest())
    for file in weights.files:
        whole.update(digest(file))
    return whole.hexdigest()
