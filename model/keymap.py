"""Names of tensors: ours, multimolecule's and GenBio's, as one table used in both directions.

Legend of shapes: V vocabulary, D hidden size, F intermediate size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from model.config import AidoRnaConfig, Layout
from model.errors import CheckpointError
from model.head_config import Kind

Part = Literal["encoder", "pooler", "lm_head"]


@dataclass(frozen=True)
class _Row:
    ours: str
    multimolecule: str
    genbio: str | None
    kind: Literal["embedding", "norm", "linear", "linear+bias", "bias"]
    shape: str
    part: Part = "encoder"
    optional: bool = False


_I = "layers.{i}."
_M = "encoder.layer.{i}."
_G = "bert.encoder.layer.{i}."
_LM = "cls.predictions."

_TABLE = (
    _Row("embedding", "embeddings.word_embeddings", "bert.embeddings.word_embeddings", "embedding", "VD"),
    _Row(_I + "attention_norm", _M + "attention.layer_norm", _G + "attention.ln", "norm", "D"),
    _Row(_I + "attention.query", _M + "attention.self.query", _G + "attention.self.query", "linear", "DD"),
    _Row(_I + "attention.key", _M + "attention.self.key", _G + "attention.self.key", "linear", "DD"),
    _Row(_I + "attention.value", _M + "attention.self.value", _G + "attention.self.value", "linear", "DD"),
    _Row(_I + "attention.output", _M + "attention.output.dense", _G + "attention.output.dense", "linear", "DD"),
    _Row(_I + "mlp_norm", _M + "layer_norm", _G + "ln", "norm", "D"),
    _Row(_I + "mlp.gate", _M + "intermediate.dense", _G + "mlp.gate_proj", "linear", "FD"),
    _Row(_I + "mlp.up", _M + "intermediate.gate", _G + "mlp.up_proj", "linear", "FD"),
    _Row(_I + "mlp.down", _M + "output.dense", _G + "mlp.down_proj", "linear", "DF"),
    _Row("final_norm", "encoder.layer_norm", "bert.encoder.ln", "norm", "D"),
    _Row("pooler.dense", "pooler.dense", None, "linear+bias", "DD", "pooler"),
    _Row("lm_head.dense", "lm_head.transform.dense", _LM + "transform.dense", "linear+bias", "DD", "lm_head"),
    _Row("lm_head.norm", "lm_head.transform.layer_norm", _LM + "transform.LayerNorm", "norm", "D", "lm_head"),
    _Row("lm_head.decoder", "lm_head.decoder", _LM + "decoder", "linear+bias", "VD", "lm_head", optional=True),
    _Row("lm_head", "lm_head", _LM[:-1], "bias", "V", "lm_head", optional=True),
)

PREFIXES = ("", "aido_rna.", "model.")
"""What may stand before the encoder's and the pooler's names in the multimolecule layout."""

HEAD_PREFIXES: dict[Kind, str] = {
    "sequence": "sequence_head.",
    "token": "token_head.",
    "contact": "contact_head.",
    "structure": "ss_head.",
}
"""What stands before the tensors of each kind of task head in multimolecule's checkpoints, with no other prefix."""

_DROPPED: tuple[tuple[str, str], ...] = (
    (r"(?:.*\.)?inv_freq", "rotary frequencies are computed, in float32"),
    (r"(?:.*\.)?position_ids", "positions are computed"),
)


@dataclass(frozen=True)
class Entry:
    """One tensor: its name here, its name in a file, its shape, the part it belongs to, whether it may be absent."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    part: Part
    optional: bool


@dataclass(frozen=True)
class Match:
    """What the names of a file come to.

    Attributes:
        entries: file's name -> the tensor it is.
        heads: names of tensors of task heads, which are read when a head is asked for.
        dropped: file's name -> why it is not loaded.
        absent: tensors the file does not have, of parts that may be absent or tied.
        parts: parts that the file has.
    """

    entries: dict[str, Entry]
    heads: tuple[str, ...]
    dropped: dict[str, str]
    absent: tuple[Entry, ...]
    parts: frozenset[Part]


def expand(config: AidoRnaConfig, layout: Layout, prefix: str = "") -> list[Entry]:
    """Every tensor that a checkpoint of this configuration can have.

    Args:
        config: gives the layers, the sizes, and which biases there are.
        layout: whose names.
        prefix: what stands before encoder and pooler in the multimolecule layout; GenBio has none.
    """
    sizes = {"V": config.vocab_size, "D": config.hidden_size, "F": config.intermediate_size}
    out: list[Entry] = []
    for row in _TABLE:
        theirs = row.multimolecule if layout == "multimolecule" else row.genbio
        if theirs is None:
            continue
        if layout == "multimolecule" and row.part != "lm_head":
            theirs = prefix + theirs
        shape = tuple(sizes[letter] for letter in row.shape)
        leaves: list[tuple[str, tuple[int, ...]]] = [] if row.kind == "bias" else [("weight", shape)]
        has_bias = {
            "embedding": False,
            "norm": config.norm == "layernorm",
            "linear": config.linear_bias,
            "linear+bias": True,
            "bias": True,
        }[row.kind]
        if has_bias:
            leaves.append(("bias", shape[:1]))
        for i in range(config.num_layers if "{i}" in row.ours else 1):
            for leaf, leaf_shape in leaves:
                ours, name = (f"{stem}.{leaf}".replace("{i}", str(i)) for stem in (row.ours, theirs))
                out.append(Entry(ours, name, leaf_shape, row.part, row.optional))
    return out


def find_prefix(keys: Iterable[str]) -> tuple[Layout, str]:
    """Layout and prefix of a file, by the name of its embedding.

    Raises:
        CheckpointError: no embedding of either layout, or several.
    """
    keys = set(keys)
    found: list[tuple[Layout, str]] = [
        ("multimolecule", prefix) for prefix in PREFIXES if f"{prefix}embeddings.word_embeddings.weight" in keys
    ]
    if "bert.embeddings.word_embeddings.weight" in keys:
        found.append(("genbio", ""))
    if len(found) != 1:
        raise CheckpointError(
            ("no" if not found else "more than one")
            + " token embedding (embeddings.word_embeddings.weight, with no prefix, aido_rna., model. or GenBio's "
            "bert.) among the tensors, so this is not a checkpoint of AIDO.RNA"
        )
    return found[0]


def match(keys: Iterable[str], config: AidoRnaConfig, layout: Layout, prefix: str = "") -> Match:
    """Account for every name of a file: mapped, of a task head, or dropped with a reason.

    Raises:
        CheckpointError: a name that nobody knows, or a tensor that is missing.
    """
    table = {entry.theirs: entry for entry in expand(config, layout, prefix)}
    entries: dict[str, Entry] = {}
    heads: list[str] = []
    dropped: dict[str, str] = {}
    for key in keys:
        if key in table:
            entries[key] = table[key]
            continue
        if key.startswith(tuple(HEAD_PREFIXES.values())):
            heads.append(key)
            continue
        reason = next((why for pattern, why in _DROPPED if re.fullmatch(pattern, key)), None)
        if reason is None:
            raise CheckpointError(
                f"unknown tensor {key!r}: a checkpoint with this config.json ({config.num_layers} layers, "
                f"{config.norm}, {'with' if config.linear_bias else 'without'} biases) has none of this name"
            )
        dropped[key] = reason
    parts: frozenset[Part] = frozenset(entry.part for entry in entries.values())
    absent = tuple(entry for entry in table.values() if entry.theirs not in entries)
    missing = [e.theirs for e in absent if not e.optional and (e.part in parts or e.part == "encoder")]
    have = {entry.ours for entry in entries.values()}
    if "lm_head" in parts and not have & {"lm_head.bias", "lm_head.decoder.bias"}:
        missing += [e.theirs for e in absent if e.ours == "lm_head.bias"]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"missing tensor{'s' if len(missing) > 1 else ''} {', '.join(missing[:3])}{more}")
    return Match(entries, tuple(heads), dropped, absent, parts)
