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
MASKED_LM = "masked_lm"
"""What the masked-LM head is called where a head is named."""
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class HeadFile:
    """Where a head is, and what it is.

    Attributes:
        name: what it is called: its kind in a checkpoint, the file's stem for an adapter.
        config: its configuration.
        trained: False where its weights are known to be random, None where nothing is known.
        path: the adapter's file; None for a head that is part of the checkpoint, or that was just made.
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


def head_names(folder_or_name: str | Path) -> dict[str, Path | None]:
    """The names of a checkpoint's task heads, none of which is read.

    Returns:
        The checkpoint's own heads first, called by their kind, with None; then the adapters in its folder `heads/`.

    Raises:
        CheckpointError: two of them have one name, upper and lower case alike.
    """
    folder = checkpoint_folder(folder_or_name)
    weights = find_weights(folder)
    names: dict[str, Path | None] = dict.fromkeys(kinds_among(tensor_shapes(weights)) if weights else ())
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        same = next((name for name in names if name.lower() == path.stem.lower()), None)
        if same is not None:
            raise CheckpointError(f"{path}: there is a head called {same!r} already; rename the file")
        names[path.stem] = path
    return names


def find_head(folder_or_name: str | Path, name: str) -> HeadFile:
    """One of the heads that `head_names` lists.

    Raises:
        KeyError: there is none of that name.
        CheckpointError: it is damaged, or config.json describes a head that does not exist here.
    """
    folder = checkpoint_folder(folder_or_name)
    path = head_names(folder)[name]
    return read_head_file(path) if path else _own_head(folder, name)


def find_heads(folder_or_name: str | Path) -> dict[str, HeadFile]:
    """All task heads of a checkpoint, in the order of `head_names`.

    Raises:
        CheckpointError: as `find_head`.
    """
    folder = checkpoint_folder(folder_or_name)
    return {name: find_head(folder, name) for name in head_names(folder)}


def _own_head(folder: Path, kind: Any) -> HeadFile:
    weights = find_weights(folder)
    assert weights is not None
    settings = read_json(folder / "config.json")
    config = head_config(folder, settings, kind, tensor_shapes(weights))
    digest = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
    own = settings.get("raypipe") or {}
    trained = (own.get("trained_heads") or {}).get(kind, own.get("trained"))
    if trained not in (True, False, None):
        raise CheckpointError(
            f"{folder / 'config.json'}: trained and trained_heads hold true or false, not {trained!r}"
        )
    return HeadFile(kind, config, trained, fingerprint=digest)


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
        trained, trunk = about["trained"], about["trunk"]
        if not isinstance(trained, bool) or not re.fullmatch(r"[0-9a-f]{64}", trunk):
            raise ValueError("trained is no truth value, or trunk no fingerprint")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({type(error).__name__}: {error})") from error
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return HeadFile(path.stem, config, trained, path.absolute(), digest, trunk)


def check_name(name: str, where: str) -> None:
    """Refuse what cannot name a head, a folder of predictions and an SQL view alike."""
    if name == MASKED_LM:
        raise CheckpointError(f"{where}: {name!r} is the name of the masked-LM head; choose another")
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{where}: {name!r} cannot name a head; use letters, digits, '.', '_' and '-' only")


def metadata(config: HeadConfig, *, trunk: str, trained: bool) -> dict[str, str]:
    """The metadata of an adapter file: one entry, as safetensors writes several in an order that differs each time.

    So the same head makes the same file, and has the same fingerprint.
    """
    about = {"format": _FORMAT, "config": config.to_json(), "trunk": trunk, "trained": trained}
    return {METADATA_KEY: json.dumps(about, sort_keys=True)}
