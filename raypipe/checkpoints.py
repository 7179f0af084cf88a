"""From what the user calls a model to a folder with its files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from model import head_files, registry
from model.config import AidoRnaConfig, read_json
from model.errors import CheckpointError
from model.files import PICKLE, SAFETENSORS, find_weights, tensor_shapes
from model.head_files import HeadFile
from model.identity import checkpoint_folder, fingerprint
from model.predictions import Decision
from raypipe.errors import RaypipeError, first_line

# Pickles are fetched only where there is nothing better.
SAFE_FILES = ["*.json", "*.safetensors", "vocab.txt"]
PICKLES = ["*.bin"]
METRICS = "metrics.json"
"""What makes a folder a result of raypipe finetune."""
HOW_TO_TRAIN = "train one on labelled sequences, as the README shows, and give its file"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Attributes:
        asked: what finds it again from any folder: the user's words, a folder made absolute.
        name: short name, fit for a folder in the store.
        path: folder with config.json and the weights, or the name of a shipped checkpoint, which every worker has.
        fingerprint: sha256 over weights, vocabulary and configuration.
        trained: False where the registry knows that the weights are random.
    """

    asked: str
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
    name, _, revision = model.partition("@")
    entry = registry.find(name)
    asked = model
    if entry and entry.folder:
        if revision:
            raise RaypipeError(f"{model}: {entry.name} ships with raypipe and has no revisions; leave out @{revision}")
        path, folder = entry.name, registry.shipped_checkpoint(entry.name)
    elif Path(model).is_dir():
        folder = Path(model).resolve()
        asked = path = str(folder)
        name = folder.name
    elif model.startswith((".", "/", "~")) or name.count("/") > 1:
        raise RaypipeError(f"{model}: no such folder; give the folder that holds the checkpoint's config.json")
    elif entry or "/" in name:
        path = _from_hub(entry.hub_ids if entry else (name,), revision or None, entry)
        folder, name = Path(path), name.rpartition("/")[2]
    else:
        raise RaypipeError(
            f"no model {model!r}: give a folder, a hub id (ORG/NAME), or one of: {', '.join(registry.names())}"
        )
    # A checkpoint that says of itself that it is untrained stays so under any folder's name.
    own = read_json(folder / "config.json").get("raypipe") or {}
    return Checkpoint(
        asked=asked,
        name=entry.name if entry else re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model",
        path=path,
        fingerprint=fingerprint(folder),
        config=AidoRnaConfig.from_json(folder),
        trained=own.get("trained", entry.trained if entry else True),
    )


def find_heads(checkpoint: Checkpoint, names: Sequence[str]) -> list[HeadFile]:
    """The heads that are asked for, in that order, each fit to predict.

    Args:
        names: the checkpoint's own heads by their kind, adapters in its folder heads/ by their files' stems, or files
            of adapters anywhere (a path that ends in .safetensors), which may be called as one of the checkpoint's; or
            result folders of raypipe finetune.

    Raises:
        RaypipeError: there is no such head, its weights were never trained, it belongs to another checkpoint, or two of
            them have one name.
        model.errors.ModelError: its file is damaged, or nobody knows what it predicts.
    """
    if not names:
        return []
    found = [_find_head(checkpoint, name) for name in names]
    for place, head in enumerate(found):
        if head.name.lower() in [earlier.name.lower() for earlier in found[:place]]:
            raise RaypipeError(f"two heads are called {head.name!r}; name each once, and rename a file that is another")
        if head.trained is False:
            raise RaypipeError(
                f"the head {head.name!r} of {checkpoint.name} was never trained: its weights are random, and what it "
                f"predicts would mean nothing; {HOW_TO_TRAIN}"
            )
        if head.trunk and head.trunk != checkpoint.fingerprint:
            raise RaypipeError(
                f"{head.path}: was trained on another model than {checkpoint.asked} (fingerprint {head.trunk[:12]}, "
                f"here {checkpoint.fingerprint[:12]}), so what it reads there means nothing to it; give its own with "
                f"--model"
            )
        Decision(head.name, head.config)  # refuses what nobody can put in words
    return found


def model_of_results(checkpoint: Checkpoint, names: Sequence[str]) -> str | None:
    """The model that the result folders of raypipe finetune among `names` of heads read; None if there are none.

    Args:
        checkpoint: whose own heads are no folders: `structure` is its head, `./structure` a folder.
        names: as `find_heads` takes them.

    Raises:
        RaypipeError: a result is damaged, or they read different models.
    """
    known = head_files.head_names(checkpoint_folder(checkpoint.path))
    models = {name: read_result(Path(name))[0] for name in names if name not in known and _is_result(name)}
    found = list(models)
    for one, other in pairwise(found):
        if models[one] != models[other]:
            raise RaypipeError(f"{one} reads {models[one]}, {other} reads {models[other]}: one command for each")
    return models[found[0]] if found else None


def read_result(root: Path) -> tuple[str, Path]:
    """Of a result of raypipe finetune: the model that its head reads, as `find_checkpoint` takes it, and that head.

    Raises:
        RaypipeError: its metrics.json is damaged.
    """
    try:
        found = json.loads((root / METRICS).read_text(encoding="utf-8"))
        name, model, method = (str(found[key]) for key in ("name", "model", "method"))
    except (ValueError, TypeError, KeyError) as error:
        raise RaypipeError(
            f"{root / METRICS}: is damaged, or none of raypipe finetune ({error}); make the result anew"
        ) from error
    # Where the trunk was trained as well, the result holds it.
    return model if method == "frozen" else str((root / "model").absolute()), root / f"{name}.safetensors"


def has_lm_head(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's weights have a masked-LM head."""
    weights = find_weights(checkpoint_folder(checkpoint.path))
    return weights is not None and any(name.startswith("lm_head.") for name in tensor_shapes(weights))


def _find_head(checkpoint: Checkpoint, name: str) -> HeadFile:
    """Reads no other head than the one that is named: a damaged file beside it does no harm."""
    if name.endswith(".safetensors"):
        return head_files.read_head_file(Path(name))
    folder = checkpoint_folder(checkpoint.path)
    known = head_files.head_names(folder)
    if name in known:
        return head_files.find_head(folder, name)
    if _is_result(name):
        return head_files.read_head_file(read_result(Path(name))[1])
    there = f"it has: {', '.join(known)}" if known else "it has none"
    raise RaypipeError(
        f"{checkpoint.name} has no head {name!r}; {there}. Name one of them, an adapter's file (NAME.safetensors) or a "
        f"result of raypipe finetune, or {HOW_TO_TRAIN}"
    )


def _is_result(name: str) -> bool:
    return (Path(name) / METRICS).is_file()


def _from_hub(hub_ids: tuple[str, ...], revision: str | None, entry: registry.Entry | None) -> str:
    """Folder of the first of `hub_ids` that can be had, from the cache before the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    failures = []
    for offline in (True, False):
        for hub in hub_ids:
            try:
                for patterns in (SAFE_FILES, [*SAFE_FILES, *PICKLES]):
                    folder = Path(
                        snapshot_download(hub, revision=revision, allow_patterns=patterns, local_files_only=offline)
                    )
                    if _has_weights(folder, SAFETENSORS):
                        return str(folder)
                    if _has_weights(folder, PICKLE):
                        raise RaypipeError(_convert_first(folder, hub, entry))
                failures += [] if offline else [f"{hub}: holds no weights"]
            except LocalEntryNotFoundError as error:
                failures += [] if offline else [f"{hub}: {first_line(error)}"]
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                failures.append(f"{hub}: {first_line(error)}")
    raise RaypipeError(
        f"the files of {hub_ids[0]} are neither in the cache nor could they be fetched ({'; '.join(failures)}); "
        f"download them where there is a network (hf download {hub_ids[0]}), then give the folder as --model"
    )


def _has_weights(folder: Path, stem: str) -> bool:
    """Whether all weight files of one kind are there: a download that was cut short leaves some."""
    try:
        return find_weights(folder, stem) is not None
    except CheckpointError:
        return False


def _convert_first(folder: Path, hub: str, entry: registry.Entry | None) -> str:
    """What to type for a repository of GenBio's layout; the cache's folder names do not say which model it is."""
    target = f"./{hub.rpartition('/')[2]}"
    row = f" --u-row {entry.u_row}" if entry and entry.u_row in ("U", "T") else ""
    command = f"raypipe model convert {shlex.quote(str(folder))} {shlex.quote(target)}{row}"
    return f"{hub}: is in GenBio's layout; convert it once, then use it with --model {target}: {command}"
