"""From what the user calls a model to a folder with its files."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from model import registry
from model.config import AidoRnaConfig
from model.identity import fingerprint
from raypipe.errors import RaypipeError

LAYOUT_FILES = ["*.json", "*.safetensors", "vocab.txt", "*.bin", "README.md"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Attributes:
        name: short name, fit for a folder in the store.
        path: folder with config.json and the weights, or the name of a shipped checkpoint, which every worker has.
        fingerprint: sha256 over weights, vocabulary and configuration.
        trained: False where the registry knows that the weights are random.
    """

    name: str
    path: str
    fingerprint: str
    config: AidoRnaConfig
    trained: bool


def find_checkpoint(model: str) -> Checkpoint:
    """Find `model`: a folder, a name of the registry, or a hub id with an optional @REVISION.

    Raises:
        RaypipeError: it cannot be had, or is in GenBio's layout and has to be converted first.
        model.errors.ModelError: its files are damaged or of another architecture.
    """
    entry = registry.find(model.partition("@")[0])
    if Path(model).is_dir():
        path, name = str(Path(model).absolute()), Path(model).absolute().name.lower()
    elif entry and entry.folder:
        path, name = entry.name, entry.name
    elif entry or "/" in model:
        hub, _, revision = model.partition("@")
        candidates = entry.hub_ids if entry else (hub,)
        path = _from_hub(candidates, revision or None)
        name = entry.name if entry else hub.rpartition("/")[2].lower()
    else:
        raise RaypipeError(
            f"no model {model!r}: give a folder, a hub id (ORG/NAME), or one of: {', '.join(registry.names())}"
        )
    folder = registry.shipped_checkpoint(path) if entry and entry.folder and path == entry.name else Path(path)
    _refuse_genbio(folder)
    return Checkpoint(
        name=name,
        path=path,
        fingerprint=fingerprint(folder),
        config=AidoRnaConfig.from_json(folder),
        trained=entry.trained if entry else True,
    )


def _refuse_genbio(folder: Path) -> None:
    """GenBio's pickles are never read at run time: they can run code, and which row is uracil is a choice."""
    file = folder / "config.json"
    if not file.is_file():
        raise RaypipeError(f"{folder}: no config.json; give the folder that holds the checkpoint's files")
    try:
        layout = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except ValueError as error:
        raise RaypipeError(f"{file}: damaged ({error}); copy the checkpoint again") from error
    if layout == "rnabert" or (any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors"))):
        target = folder.with_name(folder.name + "-converted")
        command = f"raypipe model convert {shlex.quote(str(folder))} {shlex.quote(str(target))}"
        raise RaypipeError(
            f"{folder}: a checkpoint in GenBio's layout; convert it once, then use the result: {command}"
        )


def _from_hub(hub_ids: tuple[str, ...], revision: str | None) -> str:
    """Folder of the first of `hub_ids` that can be had, from the cache before the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for hub in hub_ids:
        try:
            return snapshot_download(hub, revision=revision, allow_patterns=LAYOUT_FILES, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
    failures = []
    for hub in hub_ids:
        try:
            return snapshot_download(hub, revision=revision, allow_patterns=LAYOUT_FILES)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            failures.append(f"{hub}: {str(error).strip().splitlines()[0]}")
    raise RaypipeError(
        f"the files of {hub_ids[0]} are neither in the cache nor could they be fetched ({'; '.join(failures)}); "
        f"download them where there is a network (hf download {hub_ids[0]}), then give the folder as --model"
    )
