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
from model.float8 import Float8Layers, check_float8
from model.identity import checkpoint_folder, read_alphabet
from model.registry import find, recognise
from model.steps import compiled, no_compiler

FLOAT8 = "float8"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    folder_or_name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    *,
    compile: bool | None = None,
) -> Model:
    """Load a checkpoint.

    In bfloat16, float16 and float8 on CUDA, lists of sequences that are worth at least one full batch are computed in
    batches of exactly `max_tokens`, filled up where they end. The same kernels see all of them, so that a sequence's
    result does not depend on its company at all, and the layers between attentions are compiled.

    Args:
        folder_or_name: a folder of the multimolecule layout, or the name of a checkpoint that ships with the package
            ("nano"). A text that is a registry name means that; write `./nano` for a folder of that name.
        device: cpu, cuda, cuda:1 ...
        dtype: type of the computation: float32, bfloat16, float16, or float8: bfloat16 with the products of all layers
            but the first and the last in 8 bits (`model.float8`; emulated on a CPU, which is slow). Results are
            float32.
        compile: compile the layers for full batches on CUDA, which takes a minute at the first one; by default where
            this machine has what torch needs for it (`Model.compiled` says so).

    Raises:
        CheckpointError: no such folder, or one that is incomplete, damaged or of another layout.
        ModelError: a published checkpoint that does not ship with the package, no such device or type, or one that
            layers are not compiled for.
    """
    folder = checkpoint_folder(folder_or_name)
    where, kind = _device(device), torch.bfloat16 if dtype == FLOAT8 else _dtype(dtype)
    choose_backend(where, kind)  # refuses what there is no attention kernel for, before anything is read
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
    if dtype == FLOAT8:
        check_float8(config, where)
        encoder.float8 = Float8Layers()
    fill = where.type == "cuda" and kind != torch.float32
    obstacle = no_compiler() if fill else f"layers are compiled in half precision on CUDA, not in {kind} on {where}"
    if compile and obstacle:
        raise ModelError(f"{obstacle}; load without compile=True")
    if not obstacle and compile is not False:
        encoder.fixed = compiled()
    own: dict[str, Any] = settings.get("raypipe") or {}
    name = str(own.get("name") or folder.resolve().name)
    entry = find(name) or recognise(str(own.get("source") or name))
    trained = own.get("trained", entry.trained if entry else None)
    return Model(encoder, alphabet, name=name, folder=folder, report=report, entry=entry, trained=trained, fill=fill)


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
        raise ModelError(f"dtype is {', '.join(DTYPES)} or {FLOAT8}, not {dtype!r}")
    assert kind is not None
    return kind
