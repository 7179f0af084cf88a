"""Reading and writing checkpoints of the multimolecule layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.alphabet import Alphabet
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.errors import CheckpointError
from model.files import PICKLE, SAFETENSORS, WeightFiles, convert_command, find_weights
from model.keymap import Match, expand, find_prefix, match


@dataclass
class LoadReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        loaded: number of tensors taken.
        dropped: name in the file -> why it was not taken.
        missing: part that the checkpoint lacks -> what that means.
        notes: anything else worth knowing.
    """

    loaded: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in words, one fact per line."""
        kinds: dict[str, list[str]] = {}
        for key, reason in self.dropped.items():
            kinds.setdefault(reason, []).append(key)
        return [
            f"{self.loaded} tensors loaded",
            *(f"not loaded: {', '.join(keys)} ({reason})" for reason, keys in kinds.items()),
            *(f"no {part}: {meaning}" for part, meaning in self.missing.items()),
            *self.notes,
        ]


_WITHOUT = {
    "pooler": "the checkpoint has none, so there is no pooler_output (mean or cls pooling needs none)",
    "lm_head": "the checkpoint has none, so there are no logits and no fill-mask",
}


def load_encoder(
    folder: Path, config: AidoRnaConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[AidoRna, LoadReport]:
    """Read a checkpoint into an encoder.

    Args:
        folder: config.json's folder, with model.safetensors, single or sharded.
        config: as read from it.
        device: where the weights go.
        dtype: the type they are computed in.

    Raises:
        CheckpointError: a file is absent or damaged, a tensor is unknown, missing or of a wrong shape.
    """
    weights = find_weights(folder)
    if weights is None:
        if find_weights(folder, PICKLE) is not None:
            raise CheckpointError(f"{folder} holds {PICKLE}, a pickle; convert it once: {convert_command(folder)}")
        raise CheckpointError(f"{folder} holds no {SAFETENSORS} (nor {SAFETENSORS}.index.json)")
    shapes = _shapes(weights)
    layout, prefix = _in_folder(folder, find_prefix, shapes)
    if layout == "genbio":
        raise CheckpointError(f"{folder} is in GenBio's layout; convert it once: {convert_command(folder)}")
    found = _in_folder(folder, match, shapes, config, layout, prefix)
    for key, entry in found.entries.items():
        if shapes[key] != entry.shape:
            raise CheckpointError(
                f"{folder}: tensor {key} has the shape {list(shapes[key])}, config.json asks for {list(entry.shape)}"
            )
    tensors: dict[str, Tensor] = {}
    for file in weights.files:
        with _open(file) as handle:
            for key in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if key in found.entries:
                    value = handle.get_tensor(key)
                    if not value.is_floating_point():
                        raise CheckpointError(f"{folder}: tensor {key} holds {value.dtype}, not floating point numbers")
                    tensors[found.entries[key].ours] = value.to(device=device, dtype=dtype)
    report = LoadReport(
        loaded=len(tensors),
        dropped=found.dropped,
        missing={part: meaning for part, meaning in _WITHOUT.items() if part not in found.parts},
    )
    return _assemble(config, found, tensors, report), report


def _assemble(config: AidoRnaConfig, found: Match, tensors: dict[str, Tensor], report: LoadReport) -> AidoRna:
    report.notes += settle_ties(tensors)
    tied = "lm_head.decoder.weight" not in tensors
    with torch.device("meta"):
        encoder = AidoRna(config, pooler="pooler" in found.parts, lm_head="lm_head" in found.parts, tied=tied)
    encoder.load_state_dict(tensors, strict=True, assign=True)
    return encoder.eval()


def settle_ties(tensors: dict[str, Tensor]) -> list[str]:
    """Fold the LM head's second copies into what the encoder keeps, in place.

    A decoder equal to the embedding is the tied one and is left out; a different one is the file's own and stays.
    Logits are computed with the decoder's bias, so where a file has two biases that one counts.

    Returns:
        Remarks for the report.
    """
    notes: list[str] = []
    decoder = tensors.get("lm_head.decoder.weight")
    if decoder is not None and torch.equal(decoder, tensors["embedding.weight"]):
        del tensors["lm_head.decoder.weight"]
    elif decoder is not None:
        notes.append("the LM head has a decoder matrix of its own, not the embedding")
    bias = tensors.pop("lm_head.decoder.bias", None)
    if bias is not None:
        if "lm_head.bias" in tensors and not torch.equal(tensors["lm_head.bias"], bias):
            notes.append("lm_head.bias differs from lm_head.decoder.bias; the latter is used")
        tensors["lm_head.bias"] = bias
    return notes


def to_multimolecule(
    tensors: Mapping[str, Tensor], config: AidoRnaConfig, extra: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors under multimolecule's names, with the prefix that it gives a model with heads or a bare one.

    Args:
        tensors: by our names.
        config: of the encoder.
        extra: tensors of other heads, by the names they have in the file.
    """
    heads = bool(extra) or any(name.startswith("lm_head.") for name in tensors)
    names = {entry.ours: entry.theirs for entry in expand(config, "multimolecule", "aido_rna." if heads else "")}
    return {names[ours]: tensor.contiguous() for ours, tensor in tensors.items()} | {
        name: tensor.contiguous() for name, tensor in extra.items()
    }


def write_checkpoint(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    alphabet: Alphabet,
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, vocab.txt and model.safetensors; the folder appears whole or not at all.

    Args:
        folder: to be made; may exist if it is empty.
        settings: contents of config.json.
        tensors: by our names.
        alphabet: the vocabulary.
        extra: further tensors by their names in the file (heads that this version does not load).

    Raises:
        CheckpointError: the folder holds something already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already; give a new folder, nothing is overwritten")
    named = to_multimolecule(tensors, AidoRnaConfig.from_json(settings), extra or {})
    draft = folder.parent / f".{folder.name}.{os.getpid()}.{uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        (draft / "config.json").write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
        (draft / "vocab.txt").write_text(alphabet.to_text(), encoding="utf-8")
        save_file(named, draft / SAFETENSORS, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        (draft / SAFETENSORS).chmod((draft / "config.json").stat().st_mode)
        os.replace(draft, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_safetensors(weights: WeightFiles) -> dict[str, Tensor]:
    """Every tensor of the files, by its name there."""
    tensors: dict[str, Tensor] = {}
    for file in weights.files:
        with _open(file) as handle:
            tensors |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    return tensors


def _shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights.files:
        with _open(file) as handle:
            for key in handle.keys():  # noqa: SIM118
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


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        with file.open("rb") as stream:
            pointer = stream.read(20).startswith(b"version https://git-")
        hint = "it is a Git LFS pointer: fetch the file itself" if pointer else f"damaged or cut short ({error})"
        raise CheckpointError(f"{file} cannot be read: {hint}") from error


def _in_folder(folder: Path, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
