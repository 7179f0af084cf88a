"""What a training says of itself: sums over steps, lines of metrics, and the file that keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from index import files
from raypipe.errors import InputError

FILE = "metrics.jsonl"


class Sums:
    """Sums by name; tensors stay on their device until somebody asks."""

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self._values: dict[str, float] = dict(values or {})
        self._waiting: dict[str, list[Tensor]] = {}

    def add(self, found: Mapping[str, Tensor | float]) -> None:
        """Add to the sums of the same names."""
        for name, value in found.items():
            if isinstance(value, Tensor):
                self._waiting.setdefault(name, []).append(value)
            else:
                self._values[name] = self._values.get(name, 0.0) + value

    def values(self) -> dict[str, float]:
        """The sums."""
        for name, tensors in self._waiting.items():
            # One after another in double precision: the same sum whenever it is asked for.
            for value in torch.stack(tensors).double().tolist():
                self._values[name] = self._values.get(name, 0.0) + value
        self._waiting.clear()
        return dict(self._values)


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """What people look at: losses in nats, accuracy over A, C, G and U."""
    found: dict[str, float] = {}
    if sums.get("asked"):
        found |= {"mlm_loss": sums["mlm"] / sums["asked"], "masked_accuracy": sums["right"] / sums["asked"]}
    if sums.get("view_asked"):
        found["view_mlm_loss"] = sums["view_mlm"] / sums["view_asked"]
    if sums.get("views"):
        found |= {
            "contrastive_loss": sums["contrastive"] / sums["views"],
            "nearest_in_family": sums["nearest"] / sums["views"],
        }
    return found


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of the file; none if there is no file. A last line that a kill cut short is left out.

    Raises:
        InputError: a line is damaged.
    """
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            lines.append(json.loads(text))
            int(lines[-1]["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: line {number} is damaged ({error}); take it out, or remove the file, and run the same "
                f"command again"
            ) from error
    return lines


def cut(path: Path, step: int) -> None:
    """Forget what came after `step`, where the run goes on."""
    if path.exists():
        kept = [line for line in read(path) if line["step"] <= step]
        with files.atomic(path, path.parent) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


class Follower:
    """Reads what another process adds to the file.

    Args:
        path: of the file; what stands there now is not new.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = 0, 0
        self._told = max(map(_order, read(path)), default=(0, 0))

    def new(self) -> list[dict[str, Any]]:
        """Whole lines that came since the last call. A file that was cut and goes on tells no step twice."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    self._inode, self._offset = os.fstat(file.fileno()).st_ino, 0
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = [line for line in map(json.loads, whole.splitlines()) if _order(line) > self._told]
        self._told = max(map(_order, lines), default=self._told)
        return lines


def _order(line: Mapping[str, Any]) -> tuple[int, int]:
    """A validation stands behind the line of its step, and a note behind both."""
    return line["step"], 2 if "note" in line else int("valid" in line)
