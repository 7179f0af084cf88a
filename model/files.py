"""Which files of a checkpoint folder hold its weights. Loads no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from model.config import read_json
from model.errors import CheckpointError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"


@dataclass(frozen=True)
class WeightFiles:
    """The files, and for a sharded checkpoint which tensor is promised in which."""

    files: tuple[Path, ...]
    weight_map: dict[str, str] | None


def find_weights(folder: Path, stem: str = SAFETENSORS) -> WeightFiles | None:
    """The weight files of one kind, or None where there are none of it.

    Args:
        folder: the checkpoint.
        stem: SAFETENSORS or PICKLE; a sharded checkpoint has `<stem>.index.json` instead of `<stem>`.

    Raises:
        CheckpointError: the index of a sharded checkpoint is malformed, or a file that it names is absent.
    """
    single, index = folder / stem, folder / f"{stem}.index.json"
    if single.is_file():
        return WeightFiles((single,), None)
    if not index.is_file():
        return None
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} holds no weight_map")
    files = []
    for name in sorted(set(weight_map.values())):
        file = folder / str(name)
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file of its own folder")
        if not file.is_file():
            raise CheckpointError(f"{folder} lacks {name}, one of the files that {index.name} lists")
        files.append(file)
    return WeightFiles(tuple(files), weight_map)


def convert_command(folder: Path) -> str:
    """The command that turns a folder into one that can be loaded; it asks for --u-row itself where that is needed."""
    target = folder.parent / f"{folder.name}-converted"
    return f"raypipe model convert {shlex.quote(str(folder))} {shlex.quote(str(target))}"
