"""Which files of a checkpoint folder hold its weights. Loads no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def open_safetensors(file: Path, framework: str = "numpy") -> Any:
    """An open safetensors file.

    Args:
        file: to be read.
        framework: "pt" for tensors of torch; names, shapes and metadata need none.

    Raises:
        CheckpointError: the file is damaged, cut short, or only a pointer to itself.
    """
    # Here, not above: the plain client, which reads no weights, comes without safetensors.
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework=framework)
    except (SafetensorError, OSError) as error:
        with file.open("rb") as stream:
            pointer = stream.read(20).startswith(b"version https://git-")
        hint = "it is a Git LFS pointer: fetch the file itself" if pointer else f"damaged or cut short ({error})"
        raise CheckpointError(f"{file} cannot be read: {hint}") from error


def tensor_shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its name in the files.

    Raises:
        CheckpointError: a tensor stands in two files, or in none although the index promises it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights.files:
        with open_safetensors(file) as handle:
            for key in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if key in shapes:
                    raise CheckpointError(f"{file.parent}: tensor {key} stands in two files")
                shapes[key] = tuple(handle.get_slice(key).get_shape())
    if weights.weight_map is not None:
        absent = sorted(set(weights.weight_map) - set(shapes))
        if absent:
            raise CheckpointError(
                f"{weights.files[0].parent}: the index promises tensor {absent[0]} in {weights.weight_map[absent[0]]}, "
                "which does not hold it"
            )
    return shapes


def convert_command(folder: Path) -> str:
    """The command that turns a folder into one that can be loaded; it asks for --u-row itself where that is needed."""
    target = folder.parent / f"{folder.name}-converted"
    return f"raypipe model convert {shlex.quote(str(folder))} {shlex.quote(str(target))}"
