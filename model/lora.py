"""LoRA: low-rank updates of a frozen trunk's linear maps (Hu et al. 2021), and their files.

A linear map W becomes W + alpha / rank * B A with A of shape (rank, in) and B of shape (out, rank), which alone are
trained. It is written here, in a few lines, because the peft package needs the transformers library and models of its
classes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.encoder import AidoRna
from model.errors import CheckpointError, ModelError
from model.files import open_safetensors

TARGETS = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.output",
    "gate": "mlp.gate",
    "up": "mlp.up",
    "down": "mlp.down",
}
"""The linear maps of a layer that can be adapted, and where they are in it."""

_KEY = "raypipe.lora"
_FORMAT = "lora-1"


@dataclass(frozen=True)
class LoraConfig:
    """Which linear maps get an update, and of what kind.

    Attributes:
        rank: of every update.
        alpha: the update is multiplied by alpha / rank.
        dropout: probability of dropout on what A reads, in training.
        targets: names out of `TARGETS`; in every layer.

    Raises:
        ModelError: a value is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ModelError(f"the rank of LoRA must be a whole number above 0, not {self.rank!r}")
        if not _is_number(self.alpha) or not 0 < self.alpha < float("inf"):
            raise ModelError(f"the alpha of LoRA must be a number above 0, not {self.alpha!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ModelError(f"the dropout of LoRA must be a probability from 0 to below 1, not {self.dropout!r}")
        if isinstance(self.targets, str) or not set(self.targets) <= set(TARGETS) or not self.targets:
            raise ModelError(f"the targets of LoRA are one or more of {', '.join(TARGETS)}, not {self.targets!r}")
        # As written in a file they come as a list; order and repetition mean nothing.
        object.__setattr__(self, "targets", tuple(name for name in TARGETS if name in self.targets))

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """A frozen linear map and its update.

    A and B are float32 whatever the type of the map, since small steps would vanish in bfloat16.

    Args:
        base: the map; its parameters are frozen.
        config: of the update.
        down: (rank, in), the first A. B is 0 at first, so the map starts as it was.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig, down: Tensor) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = config.scale
        self.dropout = nn.Dropout(config.dropout)
        self.A = nn.Parameter(down)
        self.B = nn.Parameter(down.new_zeros(base.out_features, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the type that the map gives."""
        out = self.base(x)
        update = F.linear(F.linear(self.dropout(x).to(self.A.dtype), self.A), self.B)
        return out + (self.scale * update).to(out.dtype)

    def merged(self) -> nn.Linear:
        """The map with its update folded in; it is frozen and shares the bias."""
        with torch.no_grad():
            weight = self.base.weight.float() + self.scale * (self.B.float() @ self.A.float())
        linear = nn.Linear(self.base.in_features, self.base.out_features, device="meta")
        linear.weight = nn.Parameter(weight.to(self.base.weight.dtype), requires_grad=False)
        linear.bias = self.base.bias
        return linear.train(self.training)


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds.

    Attributes:
        config: how the updates were made.
        trunk: fingerprint of the checkpoint that they belong to.
        tensors: name as in `lora_state` -> values.
    """

    config: LoraConfig
    trunk: str
    tensors: dict[str, Tensor]


def add_lora(encoder: AidoRna, config: LoraConfig, seed: int) -> list[nn.Parameter]:
    """Wrap linear maps of every layer in place and freeze everything else of the encoder.

    Its output stays what it was until the updates are trained. Equal seeds give equal A on every machine: uniform over
    plus and minus 1 / sqrt(in), as in the authors' loralib.

    Args:
        encoder: with weights, on the device that it is trained on.
        config: which maps and how.
        seed: 0 to 2**32 - 1.

    Returns:
        The A and B of every map, in order: what an optimizer shall change.

    Raises:
        ModelError: the encoder has LoRA already, or a map is smaller than the rank.
    """
    if next(_wrapped(encoder), None) is not None:
        raise ModelError("the encoder has LoRA already; fold it in with merge_lora before adding another")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ModelError(f"a seed is a whole number from 0 to 2**32 - 1, not {seed!r}")
    smallest = min(encoder.config.hidden_size, encoder.config.intermediate_size)
    if config.rank > smallest:
        raise ModelError(f"LoRA of rank {config.rank} is wider than the linear maps themselves ({smallest})")
    random = np.random.RandomState(seed)
    encoder.requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for block in encoder.layers:
        for target in config.targets:
            base = block.get_submodule(TARGETS[target])
            assert isinstance(base, nn.Linear)
            bound = base.in_features**-0.5
            down = random.uniform(-bound, bound, (config.rank, base.in_features)).astype(np.float32)
            wrapped = LoraLinear(base, config, torch.from_numpy(down).to(base.weight.device))
            block.set_submodule(TARGETS[target], wrapped.train(base.training))
            parameters += [wrapped.A, wrapped.B]
    return parameters


def merge_lora(encoder: AidoRna) -> None:
    """Fold the updates into the weights, in place: plain linear maps under their old names, which can be saved.

    All weights stay frozen; `encoder.requires_grad_(True)` thaws them.

    Raises:
        ModelError: the encoder has no LoRA.
    """
    found = list(_wrapped(encoder))
    if not found:
        raise ModelError("the encoder has no LoRA to merge; add_lora makes it")
    for name, wrapped in found:
        encoder.set_submodule(name, wrapped.merged())


def lora_state(encoder: AidoRna) -> dict[str, Tensor]:
    """A and B of every wrapped map by name, such as `layers.0.attention.query.A`; views, not copies."""
    return {
        f"{name}.{part}": getattr(wrapped, part).detach() for name, wrapped in _wrapped(encoder) for part in ("A", "B")
    }


def load_lora(encoder: AidoRna, tensors: Mapping[str, Tensor]) -> None:
    """Set the A and B of an encoder that `add_lora` has wrapped in the same way.

    Args:
        encoder: to be changed in place.
        tensors: as `lora_state` gives them.

    Raises:
        CheckpointError: the tensors are not those that the encoder's LoRA has.
    """
    own = lora_state(encoder)
    if missing := sorted(set(own) - set(tensors)):
        raise CheckpointError(f"LoRA tensor {missing[0]} is missing (and {len(missing) - 1} more)")
    if unknown := sorted(set(tensors) - set(own)):
        raise CheckpointError(f"LoRA tensor {unknown[0]} belongs to no map of this encoder ({len(unknown)} such)")
    for name, value in tensors.items():
        if value.shape != own[name].shape or not value.is_floating_point():
            raise CheckpointError(
                f"LoRA tensor {name} is {value.dtype} of shape {list(value.shape)}, the encoder asks for floating "
                f"point numbers of shape {list(own[name].shape)}"
            )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def write_lora(path: str | Path, encoder: AidoRna, config: LoraConfig, trunk: str) -> None:
    """Write the updates into a safetensors file of their own; it appears whole or not at all.

    Args:
        path: the file; one that is there is replaced.
        encoder: wrapped by `add_lora`.
        config: what it was wrapped with.
        trunk: fingerprint of the checkpoint that it was loaded from (`Model.fingerprint`).

    Raises:
        ModelError: the encoder has no LoRA.
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    tensors = {name: value.cpu().contiguous() for name, value in lora_state(encoder).items()}
    if not tensors:
        raise ModelError("the encoder has no LoRA to write; add_lora makes it")
    about = {"format": _FORMAT, "config": dataclasses.asdict(config), "trunk": trunk}
    draft = path.parent / f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        # safetensors makes files that only their owner can read.
        usual = draft.stat().st_mode
        save_file(tensors, draft, metadata={_KEY: json.dumps(about, sort_keys=True)})
        draft.chmod(usual)
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def read_lora(path: str | Path, trunk: str | None = None) -> LoraFile:
    """Read what `write_lora` wrote; then `add_lora(encoder, file.config, 0)` and `load_lora(encoder, file.tensors)`.

    Args:
        path: the file.
        trunk: fingerprint of the checkpoint that the updates shall go on; not looked at if None.

    Raises:
        CheckpointError: no such file, damaged, none of LoRA, or made for another checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; write_lora makes one")
    with open_safetensors(path, "pt") as handle:
        about = _about(handle.metadata() or {}, path)
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (it is no mapping)
    try:
        config = LoraConfig(**about["config"])
    except (TypeError, ModelError) as error:
        raise CheckpointError(f"{path}: the settings of LoRA in it cannot be read: {error}") from error
    if trunk is not None and about["trunk"] != trunk:
        raise CheckpointError(
            f"{path}: was trained on another trunk (fingerprint {about['trunk'][:12]}, this one is {trunk[:12]}); load "
            "the checkpoint that it belongs to"
        )
    return LoraFile(config, about["trunk"], tensors)


def _about(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        about = json.loads(metadata[_KEY])
        if about["format"] == _FORMAT and isinstance(about["config"], dict) and isinstance(about["trunk"], str):
            return about
    except (KeyError, TypeError, json.JSONDecodeError):
        pass
    raise CheckpointError(f"{path} is no file of LoRA that this version reads (its metadata lack {_FORMAT!r})")


def _wrapped(encoder: AidoRna) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, module) for name, module in encoder.named_modules() if isinstance(module, LoraLinear))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
