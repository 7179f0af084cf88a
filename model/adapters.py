"""Weights of task heads: out of a checkpoint, out of and into adapter files."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import CheckpointError
from model.files import find_weights, open_safetensors
from model.head_config import HeadConfig
from model.head_files import HeadFile, check_name, metadata
from model.heads import make_head
from model.keymap import HEAD_PREFIXES


def load_head(found: HeadFile, folder: Path, hidden_size: int, device: torch.device) -> nn.Module:
    """Read a head's weights.

    Args:
        found: which head.
        folder: the checkpoint, where the head is part of it.
        hidden_size: D of the trunk.
        device: where the weights go; they are float32 whatever the trunk computes in.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of a wrong shape.
    """
    if found.path is not None:
        where, tensors = str(found.path), _read([found.path], "")
    else:
        weights = find_weights(folder)
        assert weights is not None
        where, tensors = str(folder), _read(list(weights.files), HEAD_PREFIXES[found.config.kind])
    with torch.device("meta"):
        head = make_head(found.config, hidden_size)
    wanted = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    if set(tensors) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
        raise CheckpointError(
            f"{where}: the tensors of the {found.config.kind} head are not those that its settings describe ("
            + "; ".join([*(f"missing {name}" for name in missing[:3]), *(f"unknown {name}" for name in unknown[:3])])
            + ")"
        )
    for name, shape in wanted.items():
        if not tensors[name].is_floating_point():
            raise CheckpointError(f"{where}: tensor {name} holds {tensors[name].dtype}, not floating point numbers")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{where}: tensor {name} of the {found.config.kind} head has the shape {list(tensors[name].shape)}, "
                f"a trunk of width {hidden_size} and the head's settings ask for {list(shape)}"
            )
    loaded = {name: tensor.to(device=device, dtype=torch.float32) for name, tensor in tensors.items()}
    head.load_state_dict(loaded, strict=True, assign=True)
    return head.eval()


def write_adapter(path: str | Path, head: nn.Module, config: HeadConfig, *, trunk: str, trained: bool) -> None:
    """Write a head into a file of its own; it appears whole or not at all.

    Args:
        path: the file, `<checkpoint>/heads/<name>.safetensors` for `load` to find it by itself; one that is there is
            replaced.
        head: the module that `model.heads.make_head` made.
        config: what it was made of.
        trunk: fingerprint of the checkpoint it was trained on (`Model.fingerprint`).
        trained: False marks random weights, which are refused where results are asked for.

    Raises:
        CheckpointError: the file's name cannot be a head's, or it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: an adapter is called NAME.safetensors")
    check_name(path.stem, str(path))
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    draft = path.parent / f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        # safetensors makes files that only their owner can read.
        usual = draft.stat().st_mode
        save_file(tensors, draft, metadata=metadata(config, trunk=trunk, trained=trained))
        draft.chmod(usual)
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _read(files: list[Path], prefix: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        with open_safetensors(file, "pt") as handle:
            for key in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if key.startswith(prefix):
                    tensors[key.removeprefix(prefix)] = handle.get_tensor(key)
    return tensors
