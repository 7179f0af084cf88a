"""What a run keeps on disk to go on: weights and optimizer, in safetensors, whole or not at all.

RUN/state/step-*.safetensors   the last few; found by `raypipe.training.state_files`
    weights.<name>             parameters, in one piece however they were spread over workers
    exp_avg.<name>, exp_avg_sq.<name>, step.<name>   AdamW's
    metadata                   raypipe.step, raypipe.about: steps done, and a few numbers beside them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from index import files
from raypipe.disk_errors import disk_error
from raypipe.errors import InputError, RaypipeError
from raypipe.training.parallel import Team
from raypipe.training.state_files import state_file, states

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_DRAFT = ".draft"


def save_state(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    about: Mapping[str, Any],
    team: Team | None = None,
    *,
    keep: int = 2,
) -> None:
    """Write the state after `step` steps, and drop all but the last ones.

    Args:
        folder: of the states.
        step: steps done.
        weights: parameters by name.
        optimizer: AdamW over these very tensors.
        about: numbers to be kept beside them.
        team: the workers; all of them call this, the first one writes.
        keep: states that stay, this one among them.

    Raises:
        RaypipeError: the disk is full, or cannot be written.
    """
    team = team or Team()
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        found = {"weights": value} | {
            moment: torch.as_tensor(optimizer.state[value][moment])
            for moment in _MOMENTS
            if value in optimizer.state and moment in optimizer.state[value]
        }
        for kind, part in found.items():
            whole = team.whole(part.detach())
            if team.rank == 0:
                tensors[f"{kind}.{name}"] = whole.cpu().contiguous()
    if team.rank == 0:
        _write(folder, step, tensors, about, keep)


def _write(folder: Path, step: int, tensors: dict[str, Tensor], about: Mapping[str, Any], keep: int) -> None:
    draft = folder / _DRAFT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft, metadata={"raypipe.step": str(step), "raypipe.about": json.dumps(about)})
        files.commit(draft, state_file(folder, step))
        for old in states(folder)[:-keep]:
            old.unlink()
    except OSError as error:
        _remove(draft)
        raise disk_error(folder, error) from error
    except SafetensorError as error:
        _remove(draft)
        raise RaypipeError(
            f"{folder}: the state of step {step} cannot be written ({error}); make room there, and run the same "
            f"command again: it goes on from the last state"
        ) from error


def _remove(draft: Path) -> None:
    with suppress(OSError):
        draft.unlink()


def load_state(
    path: Path,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    team: Team | None = None,
) -> tuple[int, dict[str, Any]]:
    """Put a state back into weights and optimizer, in place.

    Args:
        path: of the state.
        weights: parameters by name.
        optimizer: AdamW over these very tensors; None takes the weights only.
        team: the workers that the weights are spread over.

    Returns:
        Steps done, and what was kept beside them.

    Raises:
        InputError: a damaged file, or one of a model of another shape.
    """
    team = team or Team()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            step, about = int(metadata["raypipe.step"]), json.loads(metadata["raypipe.about"])
            names = set(file.keys())
            if {name for name in names if name.startswith("weights.")} != {f"weights.{name}" for name in weights}:
                raise InputError(f"{path}: is the state of another model; begin again in another folder")
            for name, value in weights.items():
                found = file.get_tensor(f"weights.{name}")
                if found.shape != value.shape:
                    raise InputError(
                        f"{path}: {name} has the shape {list(found.shape)}, this model {list(value.shape)}; "
                        "begin again in another folder"
                    )
                value.data.copy_(team.spread(found, value))
                if optimizer is not None and f"exp_avg.{name}" in names:
                    # Copies: what the file gives lies anywhere in memory, and the last bits of sums depend on where.
                    kept = {moment: file.get_tensor(f"{moment}.{name}").clone() for moment in _MOMENTS}
                    optimizer.state[value] = {
                        moment: tensor if moment == "step" else team.spread(tensor, value)
                        for moment, tensor in kept.items()
                    }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); remove it, and the run goes on from the one before") from error
    return step, about
