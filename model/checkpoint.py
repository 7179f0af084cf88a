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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from model.alphabet import Alphabet
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.errors import CheckpointError, ModelError
from model.files import (
    PICKLE,
    SAFETENSORS,
    WeightFiles,
    convert_command,
    find_weights,
    open_safetensors,
    tensor_shapes,
)
from model.head_files import HeadFile, kinds_among
from model.keymap import HEAD_PREFIXES, Match, expand, find_prefix, match


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
    shapes = tensor_shapes(weights)
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
        with open_safetensors(file, "pt") as handle:
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
        notes=[f"has the {kind} head, read at its first use" for kind in kinds_among(found.heads)],
    )
    return _assemble(config, found, tensors, report), report


def _assemble(config: AidoRnaConfig, found: Match, tensors: dict[str, Tensor], report: LoadReport) -> AidoRna:
    report.notes += settle_ties(tensors)
    tied = "lm_head.decoder.weight" not in tensors
    with torch.device("meta"):
        encoder = AidoRna(config, pooler="pooler" in found.parts, lm_head="lm_head" in found.parts, tied=tied)
    encoder.load_state_dict(tensors, strict=True, assign=True)
    return encoder.join().eval()


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
    tensors: Mapping[str, Tensor], config: AidoRnaConfig, heads: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our tensors under multimolecule's names, with the prefix that it gives a model with heads or a bare one.

    Args:
        tensors: by our names.
        config: of the encoder.
        heads: tensors of task heads, by the names they have in the file.
    """
    bare = not heads and not any(name.startswith("lm_head.") for name in tensors)
    names = {entry.ours: entry.theirs for entry in expand(config, "multimolecule", "" if bare else "aido_rna.")}
    return {names[ours]: tensor.contiguous() for ours, tensor in tensors.items()} | {
        name: tensor.contiguous() for name, tensor in heads.items()
    }


def write_checkpoint(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    alphabet: Alphabet,
    heads: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, vocab.txt and model.safetensors; the folder appears whole or not at all.

    Args:
        folder: to be made; may exist if it is empty.
        settings: contents of config.json.
        tensors: by our names.
        alphabet: the vocabulary.
        heads: tensors of task heads, by their names in the file.

    Raises:
        CheckpointError: the folder holds something already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already; give a new folder, nothing is overwritten")
    named = to_multimolecule(tensors, AidoRnaConfig.from_json(settings), heads or {})
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


_ARCHITECTURES = {
    "sequence": "AidoRnaForSequencePrediction",
    "token": "AidoRnaForTokenPrediction",
    "contact": "AidoRnaForContactPrediction",
    "structure": "AidoRnaForSecondaryStructurePrediction",
}


def save_checkpoint(
    folder: Path,
    encoder: AidoRna,
    alphabet: Alphabet,
    heads: Mapping[str, HeadFile],
    modules: Mapping[str, nn.Module],
    *,
    about: Mapping[str, Any],
) -> None:
    """Write a loaded model as a checkpoint, see `Model.save`.

    Args:
        folder: to be made.
        encoder: trunk, pooler and LM head.
        alphabet: the vocabulary.
        heads: the task heads to write into it.
        modules: their weights, by the same names.
        about: what config.json says of the checkpoint's origin, under "raypipe".
    """
    kinds = [found.config.kind for found in heads.values()]
    if len(set(kinds)) < len(kinds):
        raise ModelError(f"a checkpoint holds one head of a kind, not two; asked for: {', '.join(heads)}")
    settings = encoder.config.to_json()
    settings["tie_word_embeddings"] = encoder.lm_head is None or encoder.lm_head.decoder is None
    settings["torch_dtype"] = str(encoder.embedding.weight.dtype).removeprefix("torch.")
    name = "AidoRnaForMaskedLM" if encoder.lm_head is not None else "AidoRnaModel"
    settings["architectures"] = [_ARCHITECTURES[kinds[0]] if kinds else name]
    own: dict[str, Any] = dict(about)
    tensors: dict[str, Tensor] = {}
    for head, found in heads.items():
        fields = found.config.to_multimolecule()
        own["heads"] = own.get("heads", {}) | fields.pop("raypipe")["heads"]
        if found.trained is not None:
            own["trained_heads"] = own.get("trained_heads", {}) | {found.config.kind: found.trained}
        if not tensors:
            # multimolecule has one head to a checkpoint; the others are for us only.
            settings |= fields
        prefix = HEAD_PREFIXES[found.config.kind]
        tensors |= {prefix + key: value.detach().cpu() for key, value in modules[head].state_dict().items()}
    trunk = {key: value.detach().cpu() for key, value in encoder.state_dict().items()}
    write_checkpoint(folder, settings | {"raypipe": own}, trunk, alphabet, tensors)


def read_safetensors(weights: WeightFiles) -> dict[str, Tensor]:
    """Every tensor of the files, by its name there."""
    tensors: dict[str, Tensor] = {}
    for file in weights.files:
        with open_safetensors(file, "pt") as handle:
            tensors |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    return tensors


def _in_folder(folder: Path, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
