"""Which heads a checkpoint has: in its own weights, and in adapter files beside it. Loads no torch.

An adapter is `heads/<name>.safetensors` in the checkpoint's folder (or a file anywhere, given by its path): the head's
tensors under multimolecule's names without the head's prefix, and in the file's metadata, as JSON under "raypipe.head",
the head's configuration, the fingerprint of the trunk that it was trained on, and whether it was trained at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import read_json
from model.errors import CheckpointError
from model.files import find_weights, open_safetensors, tensor_shapes
from model.head_config import HeadConfig, Kind
from model.identity import checkpoint_folder
from model.keymap import HEAD_PREFIXES

METADATA_KEY = "raypipe.head"
FOLDER = "heads"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class HeadFile:
    """Where a head is, and what it is.

    Attributes:
        name: what it is called: its kind in a checkpoint, the file's stem for an adapter.
        config: its configuration.
        trained: False where its weights are known to be random, None where nothing is known.
        path: the adapter's file; None for a head that is part of the checkpoint.
        fingerprint: SHA-256 of the adapter's file; in a checkpoint, whose own fingerprint covers the weights, of the
            head's configuration.
        trunk: fingerprint of the checkpoint that an adapter was trained on; "" in a checkpoint.
    """

    name: str
    config: HeadConfig
    trained: bool | None
    path: Path | None = None
    fingerprint: str = ""
    trunk: str = ""


def find_heads(folder_or_name: str | Path) -> dict[str, HeadFile]:
    """The task heads of a checkpoint by name: its own first, then the adapters in its folder `heads/`.

    Raises:
        CheckpointError: an adapter is damaged or carries the name of one of the checkpoint's own heads, or config.json
            describes a head that does not exist here.
    """
    folder = checkpoint_folder(folder_or_name)
    heads = checkpoint_heads(folder)
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        found = read_head_file(path)
        if found.name in heads:
            raise CheckpointError(
                f"{path}: the checkpoint has a head called {found.name!r} of its own; rename the file"
            )
        heads[found.name] = found
    return heads


def checkpoint_heads(folder: Path) -> dict[str, HeadFile]:
    """The task heads in the checkpoint's own weights, called by their kind."""
    weights = find_weights(folder)
    if weights is None:
        return {}
    shapes = tensor_shapes(weights)
    settings = read_json(folder / "config.json")
    own = settings.get("raypipe") or {}
    heads: dict[str, HeadFile] = {}
    for kind in kinds_among(shapes):
        config = head_config(folder, settings, kind, shapes)
        digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
        trained = (own.get("trained_heads") or {}).get(kind, own.get("trained"))
        heads[kind] = HeadFile(kind, config, trained, fingerprint=digest)
    return heads


def kinds_among(keys: Iterable[str]) -> list[Kind]:
    """The kinds of head that a checkpoint with these tensors has."""
    listed = list(keys)
    return [kind for kind, prefix in HEAD_PREFIXES.items() if any(key.startswith(prefix) for key in listed)]


def head_config(folder: Path, settings: dict[str, Any], kind: Kind, shapes: dict[str, tuple[int, ...]]) -> HeadConfig:
    """Configuration of one of the checkpoint's own heads; the number of labels is that of its weights."""
    decoder = shapes.get(f"{HEAD_PREFIXES[kind]}decoder.weight", (1,))
    return HeadConfig.from_multimolecule(settings, kind, decoder[0], where=str(folder / "config.json"))


def read_head_file(path: str | Path) -> HeadFile:
    """What an adapter file says of itself.

    Raises:
        CheckpointError: no such file, a damaged one, or one that is no adapter.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name an adapter, such as heads/rna_type.safetensors")
    check_name(path.stem, str(path))
    with open_safetensors(path) as handle:
        text = (handle.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: is no adapter: its metadata lack {METADATA_KEY!r}; write one with Model.save_head"
        )
    try:
        about = json.loads(text)
        if about["format"] != _FORMAT:
            raise CheckpointError(f"{path}: adapter format {about['format']}; this raypipe reads {_FORMAT}")
        config = HeadConfig.from_json(about["config"], where=str(path))
        trained, trunk = bool(about["trained"]), str(about["trunk"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({type(error).__name__}: {error})") from error
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return HeadFile(path.stem, config, trained, path.absolute(), digest, trunk)


def check_name(name: str, where: str) -> None:
    """Refuse what cannot name a head, a folder of predictions and an SQL view alike."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{where}: {name!r} cannot name a head; use letters, digits, '.', '_' and '-' only")


def metadata(config: HeadConfig, *, trunk: str, trained: bool) -> dict[str, str]:
    """The metadata of an adapter file."""
    about = {"format": _FORMAT, "config": config.to_json(), "trunk": trunk, "trained": trained}
    return {"format": "pt", METADATA_KEY: json.dumps(about, sort_keys=True)}
