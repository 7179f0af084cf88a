"""Where a run stands after an epoch: weights, what they are learned on, optimizer, random numbers, history.

One file, whole or absent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from index.files import atomic
from raypipe.errors import RaypipeError
from raypipe.finetuning.folder import EPOCH

_KEY = "raypipe.finetuning"

Weights = dict[str, Tensor]
"""What is trained, by name."""


@dataclass
class Standing:
    """How far a run is.

    Attributes:
        epoch: epochs that are finished.
        history: a dictionary for each, as in metrics.jsonl.
        best_epoch: the one whose weights are kept, from 1; 0 before the first.
        best_value: its figure.
        best: its weights.
        seconds: spent in training and measuring.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    best: Weights = field(default_factory=dict)
    seconds: float = 0.0


def save(folder: Path, standing: Standing, now: Weights, fixed: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Write everything that going on needs.

    Args:
        folder: `.state` of the result.
        standing: where the run is.
        now: the weights as they are.
        fixed: what the weights are learned on and does not change, by name; see `fixed_tensors`.
        optimizer: with its moments.
    """
    tensors = {f"now.{name}": value for name, value in now.items()}
    tensors |= {f"best.{name}": value for name, value in standing.best.items()}
    tensors |= {f"fixed.{name}": value for name, value in fixed.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    tensors["random"] = torch.get_rng_state()
    if (device := _device(now)).type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(device)
    about = {name: getattr(standing, name) for name in ("epoch", "history", "best_epoch", "best_value", "seconds")}
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(folder / EPOCH, folder) as temporary:
        save_file(flat, temporary, metadata={_KEY: json.dumps(about)})


def load(folder: Path, now: Weights, optimizer: torch.optim.Optimizer) -> Standing | None:
    """Set weights, optimizer and random numbers to what `save` wrote.

    Returns:
        Where the run is; None where it has not begun.

    Raises:
        RaypipeError: the file is damaged, or of another run.
    """
    path = folder / EPOCH
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as handle:
            about = json.loads((handle.metadata() or {})[_KEY])
            tensors: Weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, value in now.items():
                value.copy_(tensors[f"now.{name}"])
        state = optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                moments.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({**state, "state": moments})
        torch.set_rng_state(tensors["random"])
        if (device := _device(now)).type == "cuda" and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"], device)
        return Standing(best=_part(tensors, "best."), **about)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, OSError) as error:
        raise _damaged(path, error) from error


def fixed_tensors(folder: Path) -> Weights | None:
    """What `save` was given as `fixed`; None where nothing is saved yet.

    Raises:
        RaypipeError: the file is damaged.
    """
    path = folder / EPOCH
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as handle:
            names = [name for name in handle.keys() if name.startswith("fixed.")]  # noqa: SIM118
            return _part({name: handle.get_tensor(name) for name in names}, "fixed.")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _part(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _device(weights: Weights) -> torch.device:
    """Where what is trained lies, all of it."""
    return next(iter(weights.values())).device


def _damaged(path: Path, error: Exception) -> RaypipeError:
    return RaypipeError(
        f"{path}: is damaged or of another run ({error}); remove {path.parent} to train from the beginning"
    )
