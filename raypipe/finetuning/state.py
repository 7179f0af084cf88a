"""Where a run stands after an epoch: weights, optimizer, random numbers, history. One file, whole or absent."""

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

FOLDER = ".state"
FILE = "epoch.safetensors"
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


def save(folder: Path, standing: Standing, now: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Write everything that going on needs.

    Args:
        folder: `.state` of the result.
        standing: where the run is.
        now: the weights as they are.
        optimizer: with its moments.
    """
    tensors = {f"now.{name}": value for name, value in now.items()}
    tensors |= {f"best.{name}": value for name, value in standing.best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    about = {name: getattr(standing, name) for name in ("epoch", "history", "best_epoch", "best_value", "seconds")}
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic(folder / FILE, folder) as temporary:
        save_file(flat, temporary, metadata={_KEY: json.dumps(about)})


def load(folder: Path, now: Weights, optimizer: torch.optim.Optimizer) -> Standing | None:
    """Set weights, optimizer and random numbers to what `save` wrote.

    Returns:
        Where the run is; None where it has not begun.

    Raises:
        RaypipeError: the file is damaged, or of another run.
    """
    path = folder / FILE
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
        if torch.cuda.is_available() and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"])
        best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
        return Standing(best=best, **about)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, OSError) as error:
        raise RaypipeError(
            f"{path}: is damaged or of another run ({error}); remove {folder} to train from the beginning"
        ) from error
