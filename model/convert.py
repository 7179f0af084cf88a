"""Turn a checkpoint of either layout, pickle or safetensors, single or sharded, into one safetensors folder.

GenBio's 16-letter vocabulary becomes multimolecule's 26 letters:
- the special tokens, A, C, G and N take over their rows;
- U takes over GenBio's row of U or of T (`u_row`): models that were trained on DNA letters learnt the latter;
- an ambiguity letter becomes the mean of its bases' new rows, as multimolecule does it;
- `.`, `*`, `-` and I get noise N(0, 0.02) from a fixed seed and a zero bias: nothing was learnt for them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.alphabet import STANDARD_TOKENS, Alphabet
from model.checkpoint import read_safetensors, settle_ties, write_checkpoint
from model.config import AidoRnaConfig, config_layout, read_json
from model.errors import CheckpointError, ModelError
from model.files import PICKLE, SAFETENSORS, WeightFiles, find_weights
from model.head_config import HeadConfig
from model.identity import read_alphabet
from model.keymap import Match, find_prefix, match
from model.lightning import find_lightning, rename
from model.registry import Entry, recognise

_GENBIO_VOCABULARY = 16
_GENBIO_ROW = {
    "<pad>": 0,
    "<cls>": 2,
    "<eos>": 3,
    "<unk>": 4,
    "<mask>": 1,
    "<null>": 15,
    "A": 5,
    "C": 7,
    "G": 6,
    "N": 10,
}
_U_ROW = {"U": 9, "T": 8}
_BASES = {
    "R": "AG",
    "Y": "CU",
    "S": "CG",
    "W": "AU",
    "K": "GU",
    "M": "AC",
    "B": "CGU",
    "D": "AGU",
    "H": "ACU",
    "V": "ACG",
    "X": "ACGU",
}
_NOISE_SEED = 1016
_NOISE_SCALE = 0.02


def convert(
    src: str | Path, dst: str | Path, u_row: Literal["U", "T"] | None = None, source: str | None = None
) -> list[str]:
    """Write a checkpoint folder that `load` reads: config.json, vocab.txt, model.safetensors.

    Args:
        src: folder with config.json and model.safetensors or pytorch_model.bin, sharded or not, of either layout, or
            GenBio's Lightning `.ckpt` of the secondary-structure model, whose decision threshold is kept.
        dst: folder to be made.
        u_row: for GenBio's layout, which of its rows becomes U. Without it, the checkpoint's name decides (that of the
            folder, or `_name_or_path` in its config.json): U for AIDO.RNA 650M and 1.6B, T for the CDS ones. For the
            MARS ones, and for names that are not in the registry, it has to be given.
        source: the checkpoint's name where it is better known than by its files: ORG/NAME@COMMIT of the hub.

    Returns:
        Remarks: which row was taken and why, what was dropped.

    Raises:
        CheckpointError: the source is incomplete or not AIDO.RNA, or the target cannot be written.
        ModelError: `u_row` is needed, or makes no sense for this source.
    """
    src, dst = Path(src), Path(dst)
    settings = read_json(src / "config.json")
    where = str(src / "config.json")
    layout = config_layout(settings, where)
    config = AidoRnaConfig.from_json(settings)
    own = settings.get("raypipe") or {}
    name = source or str(own.get("source") or settings.get("_name_or_path") or src.resolve().name)
    if u_row is not None and u_row not in _U_ROW:
        raise ModelError(f"u_row is U or T, not {u_row!r}")
    notes: list[str] = []
    if layout == "genbio":
        u_row, why = _choose_u_row(src, settings, u_row, source)
        notes.append(f"uracil takes GenBio's row of {u_row}: {why}")
    elif u_row is not None:
        raise ModelError(
            f"{src} is in the multimolecule layout, whose conversion has kept one row for uracil already; "
            "--u-row applies to GenBio's files only"
        )
    raw, threshold = _read_tensors(src)
    found = _account_for(raw, config, layout, src)
    tensors = {entry.ours: raw[key] for key, entry in found.entries.items()}
    heads = {key: raw[key] for key in found.heads}
    notes += [f"not carried over: {key} ({why})" for key, why in found.dropped.items()]
    notes += settle_ties(tensors)
    if layout == "genbio":
        assert u_row is not None
        tensors = _to_26_letters(tensors, u_row)
        settings = _multimolecule_settings(config, found)
        alphabet = Alphabet(STANDARD_TOKENS)
    else:
        settings = {key: value for key, value in settings.items() if key != "raypipe"}
        alphabet = read_alphabet(src)
    if "lm_head" in found.parts:
        settings["tie_word_embeddings"] = "lm_head.decoder.weight" not in tensors
    described = dict(own.get("heads") or {})
    if threshold is not None and found.heads:
        described["structure"] = HeadConfig("structure", threshold=threshold).to_json()
        notes.append(f"the structure head calls a pair one above a probability of {threshold:g}, as the source says")
    settings["raypipe"] = {
        **({"trained": own["trained"]} if "trained" in own else {}),
        **({"trained_heads": own["trained_heads"]} if "trained_heads" in own else {}),
        **({"heads": described} if described else {}),
        "source": name,
        "source_layout": layout,
        **({"u_row": u_row} if u_row else {}),
    }
    write_checkpoint(dst, settings, tensors, alphabet, heads)
    return notes


def _choose_u_row(
    src: Path, settings: Mapping[str, Any], given: Literal["U", "T"] | None, source: str | None
) -> tuple[Literal["U", "T"], str]:
    if given is not None:
        return given, "as asked"
    names = [source] if source else [str(settings.get("_name_or_path") or ""), src.resolve().name]
    known: list[Entry] = [entry for entry in map(recognise, names) if entry is not None]
    rows = {entry.u_row for entry in known}
    if len(rows) == 1:
        (row,) = rows
        if row in ("U", "T"):
            return row, f"the rule for {known[0].name}"
    if not known:
        reason = "neither config.json nor the folder's name says which published checkpoint this is"
    elif len(rows) > 1:
        reason = f"config.json and the folder's name disagree ({' and '.join(e.name for e in known)})"
    else:
        reason = f"the sources disagree about {known[0].name}"
    raise ModelError(
        f"{src}: say with --u-row U or --u-row T which row of GenBio's vocabulary carries uracil; {reason}. "
        "Models pretrained on RNA letters use U, those continued on DNA letters (the CDS ones) use T; to decide, "
        "convert both ways and compare how well masked letters are predicted"
    )


def _read_tensors(src: Path) -> tuple[dict[str, Tensor], float | None]:
    """Tensors by the names of their layout, and the structure head's threshold where the source has one."""
    weights = find_weights(src, SAFETENSORS)
    if weights is not None:
        return read_safetensors(weights), None
    weights = find_weights(src, PICKLE)
    if weights is not None:
        return _read_pickles(weights), None
    lightning = find_lightning(src)
    if lightning is None:
        raise CheckpointError(f"{src} holds neither {SAFETENSORS} nor {PICKLE}, single or sharded, nor a .ckpt")
    return rename(_unpickle(lightning), lightning)


def _unpickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as plain tensors: it is damaged, cut short, or holds other objects, which are "
            f"refused because a pickle can run code ({(str(error) or type(error).__name__).splitlines()[0][:200]})"
        ) from error


def _read_pickles(weights: WeightFiles) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in weights.files:
        loaded = _unpickle(file)
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise CheckpointError(f"{file} is not a plain dictionary of tensors")
        tensors |= loaded
    if weights.weight_map is not None and (absent := sorted(set(weights.weight_map) - set(tensors))):
        raise CheckpointError(f"{weights.files[0].parent}: the index promises tensor {absent[0]}, but no file has it")
    return tensors


def _account_for(raw: Mapping[str, Tensor], config: AidoRnaConfig, layout: str, src: Path) -> Match:
    try:
        by_names, prefix = find_prefix(raw)
        if by_names != layout:
            raise CheckpointError(f"config.json is {layout}'s, but the tensors have {by_names}'s names")
        found = match(raw, config, by_names, prefix)
    except CheckpointError as error:
        raise CheckpointError(f"{src}: {error}") from None
    if layout == "genbio" and config.vocab_size != _GENBIO_VOCABULARY:
        raise CheckpointError(f"{src}: a GenBio vocabulary has {_GENBIO_VOCABULARY} rows, not {config.vocab_size}")
    for key, entry in found.entries.items():
        if tuple(raw[key].shape) != entry.shape:
            raise CheckpointError(
                f"{src}: tensor {key} has the shape {list(raw[key].shape)}, config.json asks for {list(entry.shape)}"
            )
    return found


def _multimolecule_settings(config: AidoRnaConfig, found: Match) -> dict[str, Any]:
    settings = config.to_json() | {"vocab_size": len(STANDARD_TOKENS)}
    name = "AidoRnaForMaskedLM" if "lm_head" in found.parts else "AidoRnaModel"
    if found.heads:
        name = "AidoRnaForSecondaryStructurePrediction"
    return {"architectures": [name], **settings}


def _to_26_letters(tensors: dict[str, Tensor], u_row: Literal["U", "T"]) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(_NOISE_SEED)
    out = dict(tensors)
    for name in ("embedding.weight", "lm_head.decoder.weight", "lm_head.bias"):
        if name in tensors:
            out[name] = _remap(tensors[name], u_row, noise)
    return out


def _remap(old: Tensor, u_row: Literal["U", "T"], noise: torch.Generator) -> Tensor:
    """Rows (16, ...) -> (26, ...), in the old type; means are taken in float32."""
    rows = {token: old[row].float() for token, row in (_GENBIO_ROW | {"U": _U_ROW[u_row]}).items()}
    for letter, bases in _BASES.items():
        rows[letter] = torch.stack([rows[base] for base in bases]).mean(0)
    for letter in STANDARD_TOKENS:
        if letter not in rows:
            random = torch.randn(old.shape[1:], generator=noise) * _NOISE_SCALE
            rows[letter] = random if old.dim() > 1 else torch.zeros(old.shape[1:])
    return torch.stack([rows[token] for token in STANDARD_TOKENS]).to(old.dtype)
