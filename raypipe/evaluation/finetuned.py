"""A result of `raypipe finetune` as an evaluation reads it: its settings, its head, and the trunk of that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raypipe.errors import InputError, UsageError
from raypipe.finetuning.folder import METRICS, SETTINGS
from raypipe.finetuning.settings import FinetuneSettings


@dataclass(frozen=True)
class Finetuned:
    """A finished result.

    Attributes:
        root: its folder.
        settings: with which it was made.
        model: the checkpoint that its head reads.
        head: the file of its head.
    """

    root: Path
    settings: FinetuneSettings
    model: str
    head: Path


def read_finetuned(root: Path) -> Finetuned:
    """Read a result of structures.

    Raises:
        UsageError: the folder is no finished result, or one of another task.
        InputError: its files are damaged.
    """
    if not (root / METRICS).is_file() or not (root / SETTINGS).is_file():
        raise UsageError(f"--as {root}: is no finished result of raypipe finetune; it has no {METRICS}")
    try:
        found: dict[str, Any] = json.loads((root / METRICS).read_text(encoding="utf-8"))
        settings = FinetuneSettings(**json.loads((root / SETTINGS).read_text(encoding="utf-8")))
        name = str(found["name"])
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise InputError(f"--as {root}: {SETTINGS} or {METRICS} is damaged ({error}); make the result anew") from error
    if settings.task != "structure":
        raise UsageError(f"--as {root}: is a {settings.task} head; only a split of structures can be taken over")
    own = root / "model"
    return Finetuned(root, settings, str(own) if own.is_dir() else settings.model, root / f"{name}.safetensors")
