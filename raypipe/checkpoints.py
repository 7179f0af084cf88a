"""From what the user calls a model to a folder with its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model import registry
from model.config import AidoRnaConfig, read_json
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
        RaypipeError: it cannot be had.
        model.errors.ModelError: its files are damaged, of another architecture, or in GenBio's layout, which is
            never read at run time (pickles can run code, and which row is uracil is a choice).
    """
    entry = registry.find(model.partition("@")[0])
    if entry and entry.folder:
        path, name, folder = entry.name, entry.name, registry.shipped_checkpoint(entry.name)
    elif Path(model).is_dir():
        folder = Path(model).resolve()
        path, name = str(folder), folder.name.lower()
    elif entry or "/" in model:
        hub, _, revision = model.partition("@")
        path = _from_hub(entry.hub_ids if entry else (hub,), revision or None)
        folder, name = Path(path), entry.name if entry else hub.rpartition("/")[2].lower()
    else:
        raise RaypipeError(
            f"no model {model!r}: give a folder, a hub id (ORG/NAME), or one of: {', '.join(registry.names())}"
        )
    # A checkpoint that says of itself that it is untrained stays so under any folder's name.
    own = read_json(folder / "config.json").get("raypipe") or {}
    return Checkpoint(
        name=name,
        path=path,
        fingerprint=fingerprint(folder),
        config=AidoRnaConfig.from_json(folder),
        trained=own.get("trained", entry.trained if entry else True),
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
