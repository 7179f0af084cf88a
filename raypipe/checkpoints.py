"""From what the user calls a model to a folder with its files."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from model import head_files, registry
from model.config import AidoRnaConfig, read_json
from model.errors import ModelError
from model.files import find_weights, tensor_shapes
from model.head_files import HeadFile
from model.identity import checkpoint_folder, fingerprint
from model.predictions import Decision
from raypipe import digests, hub, is_server
from raypipe.converted import readable
from raypipe.errors import RaypipeError

METRICS = "metrics.json"
"""What makes a folder a result of raypipe finetune."""
HOW_TO_TRAIN = "train one on labelled sequences, as the README shows, and give its file"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Attributes:
        asked: what finds it again from any folder: the user's words, a folder made absolute, a repository of the hub
            pinned to its commit.
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


def find_checkpoint(model: str, alive: Callable[[], None] = lambda: None) -> Checkpoint:
    """Find `model`: a folder, a name of the registry, or a hub id with an optional @REVISION.

    A repository of the hub is taken from this machine's cache or fetched, and one in GenBio's layout is converted once.

    Args:
        alive: called now and then while that goes on.

    Raises:
        RaypipeError: it cannot be had, or is a repository of which nobody knows which row is uracil.
        model.errors.ModelError: its files are damaged, of another architecture, or a folder in GenBio's layout, which
            is never read at run time (pickles can run code, and which row is uracil is a choice).
    """
    if is_server(model):
        raise RaypipeError(
            f"{model}: is a server; its atlas's model is asked by raypipe fill-mask --model, and in Python by the "
            f"calls of raypipe.connect({model!r}), such as predict"
        )
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
    elif model.startswith((".", "/", "~")) or model.endswith("/") or name.count("/") > 1:
        raise RaypipeError(f"{model}: no such folder; give the folder that holds the checkpoint's config.json")
    elif entry or "/" in name:
        snapshot = hub.find_snapshot(_hub_ids(name, entry), revision or None, alive)
        folder, asked, name = readable(snapshot, alive), snapshot.pinned, name.rpartition("/")[2]
        path = str(folder)
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
        fingerprint=fingerprint(folder, digests.sha256),
        config=AidoRnaConfig.from_json(folder),
        trained=own.get("trained", entry.trained if entry else True),
    )


def find_on_node(asked: str, path: str, expected: str, alive: Callable[[], None] = lambda: None) -> str:
    """What `model.load` takes on this machine for a checkpoint that was found on another one.

    A repository of the hub is fetched, and converted, by every node for itself; a folder has to be there.

    Args:
        asked, path, expected: of the `Checkpoint`: what finds it, where it lay there, its fingerprint.
        alive: called now and then while a download goes on.

    Raises:
        RaypipeError: it is not here, or is another one here.
        model.errors.ModelError: its files here are damaged.
    """
    problem: Exception = changed(path, "model")
    try:
        if fingerprint(path, digests.sha256) == expected:
            return path
    except ModelError as error:
        problem = error
    if hub.is_pinned(asked):
        found = find_checkpoint(asked, alive)
        if found.fingerprint == expected:
            return found.path
        problem = changed(found.path, "model")
    elif registry.find(path) is None and not Path(path).exists():
        problem = RaypipeError(
            f"{path}: {socket.gethostname()} has no such folder; put the model where every machine sees it under one "
            f"path, or name it by its hub id (ORG/NAME), which every machine fetches for itself"
        )
    raise problem


def changed(path: str, what: str) -> RaypipeError:
    """What a worker says of files that are not those of the run."""
    return RaypipeError(
        f"{path} holds another {what} than when and where the run was started; give every machine the same files, and "
        f"leave them alone while it runs"
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


def _hub_ids(name: str, entry: registry.Entry | None) -> tuple[str, ...]:
    """Where to look for `name`: a repository is meant as named, a name of the registry may be there in two layouts."""
    if entry is None:
        return (name,)
    if "/" not in name:
        return entry.hub_ids
    return (next((known for known in entry.hub_ids if known.lower() == name.lower()), name),)


def _is_result(name: str) -> bool:
    return (Path(name) / METRICS).is_file()
