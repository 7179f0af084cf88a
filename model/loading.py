"""From a checkpoint's folder or name to a model that is ready to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.api import Model
from model.attention import choose_backend
from model.checkpoint import load_encoder
from model.config import AidoRnaConfig, config_layout, read_json
from model.errors import CheckpointError, ModelError
from model.files import convert_command
from model.identity import checkpoint_folder, read_alphabet
from model.registry import find, recognise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(folder_or_name: str | Path, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32") -> Model:
    """Load a checkpoint.

    Args:
        folder_or_name: a folder of the multimolecule layout, or the name of a checkpoint that ships with the package
            ("nano"). A text that is a registry name means that; write `./nano` for a folder of that name.
        device: cpu, cuda, cuda:1 ...
        dtype: type of the computation: float32, bfloat16 or float16. Results are float32.

    Raises:
        CheckpointError: no such folder, or one that is incomplete, damaged or of another layout.
        ModelError: a published checkpoint that does not ship with the package, or no such device or type.
    """
    folder = checkpoint_folder(folder_or_name)
    where, kind = _device(device), _dtype(dtype)
    choose_backend(where, kind)
    settings = read_json(folder / "config.json")
    if config_layout(settings, str(folder / "config.json")) == "genbio":
        raise CheckpointError(f"{folder} is in GenBio's layout; convert it once: {convert_command(folder)}")
    config = AidoRnaConfig.from_json(folder)
    alphabet = read_alphabet(folder)
    if len(alphabet) != config.vocab_size:
        raise CheckpointError(
            f"{folder}: vocab.txt has {len(alphabet)} tokens, config.json says vocab_size {config.vocab_size}"
            if (folder / "vocab.txt").is_file()
            else f"{folder} has no vocab.txt, and a vocab_size of {config.vocab_size} is not the standard one of 26"
        )
    encoder, report = load_encoder(folder, config, device=where, dtype=kind)
    own: dict[str, Any] = settings.get("raypipe") or {}
    name = str(own.get("name") or folder.resolve().name)
    entry = find(name) or recognise(str(own.get("source") or name))
    trained = own.get("trained", entry.trained if entry else None)
    return Model(encoder, alphabet, name=name, folder=folder, report=report, entry=entry, trained=trained)


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"no device is called {device!r}; use cpu, cuda, or cuda:N") from error
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise ModelError("device cuda was asked for, but torch sees no CUDA device here; use device='cpu'")
        count = torch.cuda.device_count()
        if (where.index or 0) >= count:
            raise ModelError(f"there is no {where}: torch sees {count} CUDA device{'s' if count != 1 else ''}")
    return where


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind not in DTYPES.values():
        raise ModelError(f"dtype is {', '.join(DTYPES)}, not {dtype!r}")
    assert kind is not None
    return kind
