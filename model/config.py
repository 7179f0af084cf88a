"""Configuration of one AIDO.RNA encoder, read from either published layout of config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.errors import CheckpointError

Layout = Literal["multimolecule", "genbio"]

_MODEL_TYPES: dict[str, Layout] = {"aido.rna": "multimolecule", "rnabert": "genbio"}
_NORMS: dict[str, Literal["layernorm", "rmsnorm"]] = {"LayerNorm": "layernorm", "RMSNorm": "rmsnorm"}
_DROPOUT: dict[Layout, dict[str, tuple[str, float]]] = {
    "multimolecule": {
        "hidden_dropout": ("hidden_dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
    },
    "genbio": {
        "hidden_dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    },
}
"""Our field -> its name in each layout, and what holds there where it is absent."""

_LM_HEAD_FIXED = {"transform": "nonlinear", "transform_act": "gelu", "bias": True, "act": None}


@dataclass(frozen=True)
class AidoRnaConfig:
    """Everything that fixes the shape and the arithmetic of an encoder.

    Attributes:
        num_layers: transformer layers.
        hidden_size: width D of the residual stream.
        num_heads: attention heads N; the head size is D / N.
        intermediate_size: width F of the SwiGLU.
        vocab_size: rows of the embedding (26 in the multimolecule layout, 16 in GenBio's).
        max_positions: tokens of the trained context, the two special tokens included.
        norm: LayerNorm with weight and bias, or RMSNorm with a weight only.
        linear_bias: whether the encoder's linear maps have biases (those of the LM head always have).
        norm_eps: epsilon of the encoder's norms.
        lm_norm_eps: epsilon of the LM head's norm: 1e-12 in multimolecule, the encoder's in GenBio.
        initializer_range: standard deviation of fresh weights.
        hidden_dropout: probability of dropout after the attention's and the SwiGLU's last linear map, in training only.
        attention_dropout: the same for attention probabilities.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int = 26
    max_positions: int = 1024
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    linear_bias: bool = True
    norm_eps: float = 1e-5
    lm_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in (
            "num_layers",
            "hidden_size",
            "num_heads",
            "intermediate_size",
            "vocab_size",
            "max_positions",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(f"{field} must be a whole number above 0, not {value!r}")
        if self.hidden_size % self.num_heads or self.head_size % 2:
            raise CheckpointError(
                f"hidden size {self.hidden_size} over {self.num_heads} heads does not give an even head size, "
                "which the rotary positions need"
            )
        if self.max_positions < 3:
            raise CheckpointError("max_positions must leave room for a nucleotide between <cls> and <eos>")
        for field in ("hidden_dropout", "attention_dropout"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise CheckpointError(f"{field} must be a probability from 0 to below 1, not {value!r}")

    @property
    def head_size(self) -> int:
        """Width H of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def context(self) -> int:
        """Nucleotides that fit the trained context beside <cls> and <eos> (1022 in every published checkpoint)."""
        return self.max_positions - 2

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> AidoRnaConfig:
        """Read a config.json of the multimolecule or the GenBio layout.

        Args:
            source: the file, its folder, or the parsed object.

        Raises:
            CheckpointError: a field is missing, or describes an architecture that this encoder is not.
        """
        data, where = (source, "the configuration") if isinstance(source, Mapping) else _read(Path(source))
        layout = config_layout(data, where)
        _refuse_other_architectures(data, where)
        norm_name = data.get("normalization_type", "LayerNorm")
        if norm_name not in _NORMS:
            raise CheckpointError(f"{where}: normalization_type {norm_name!r} is neither LayerNorm nor RMSNorm")
        norm_eps = float(data.get("layer_norm_eps", 1e-5))
        return cls(
            num_layers=_required(data, "num_hidden_layers", where),
            hidden_size=_required(data, "hidden_size", where),
            num_heads=_required(data, "num_attention_heads", where),
            intermediate_size=_required(data, "intermediate_size", where),
            vocab_size=_required(data, "vocab_size", where),
            max_positions=data.get("max_position_embeddings", 1024),
            norm=_NORMS[norm_name],
            linear_bias=bool(data.get("add_linear_bias", True)),
            norm_eps=norm_eps,
            lm_norm_eps=norm_eps if layout == "genbio" else _lm_head_eps(data, where),
            initializer_range=float(data.get("initializer_range", 0.02)),
            **{ours: data.get(theirs, default) for ours, (theirs, default) in _DROPOUT[layout].items()},
        )

    def to_json(self) -> dict[str, Any]:
        """The configuration as an object in the multimolecule layout.

        `normalization_type` and `add_linear_bias` are GenBio's fields: multimolecule has none for them, so they are
        written only where they differ from what it assumes.
        """
        data: dict[str, Any] = {
            "model_type": "aido.rna",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "silu",
            "hidden_dropout": self.hidden_dropout,
            "attention_dropout": self.attention_dropout,
            "max_position_embeddings": self.max_positions,
            "initializer_range": self.initializer_range,
            "layer_norm_eps": self.norm_eps,
            "position_embedding_type": "rotary",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "unk_token_id": 3,
            "mask_token_id": 4,
            "null_token_id": 5,
            "tie_word_embeddings": True,
            "head": None,
            "lm_head": None if self.lm_norm_eps == 1e-12 else {"layer_norm_eps": self.lm_norm_eps},
        }
        if self.norm == "rmsnorm":
            data["normalization_type"] = "RMSNorm"
        if not self.linear_bias:
            data["add_linear_bias"] = False
        return data


def config_layout(data: Mapping[str, Any], where: str = "the configuration") -> Layout:
    """Which of the two published layouts a parsed config.json belongs to, by its `model_type`."""
    kind = data.get("model_type")
    if kind not in _MODEL_TYPES:
        raise CheckpointError(
            f"{where}: model_type is {kind!r}; an AIDO.RNA checkpoint has 'aido.rna' (multimolecule) or "
            "'rnabert' (GenBio). Is this the folder of another model?"
        )
    return _MODEL_TYPES[kind]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} holds no {path.name}, so it is not a checkpoint folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return data


def _read(path: Path) -> tuple[dict[str, Any], str]:
    file = path / "config.json" if path.is_dir() else path
    return read_json(file), str(file)


def _required(data: Mapping[str, Any], key: str, where: str) -> int:
    if key not in data:
        raise CheckpointError(f"{where} lacks {key!r}")
    return data[key]


def _lm_head_eps(data: Mapping[str, Any], where: str) -> float:
    head = data.get("lm_head") or {}
    for key, value in _LM_HEAD_FIXED.items():
        if head.get(key, value) != value:
            raise CheckpointError(f"{where}: an LM head with {key}={head[key]!r} is not supported (only {value!r})")
    return float(head.get("layer_norm_eps", 1e-12))


def _refuse_other_architectures(data: Mapping[str, Any], where: str) -> None:
    allowed: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu", "swiglu"),
        "position_embedding_type": ("rotary", "rope"),
        "rotary_percent": (1, 1.0),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    }
    for key, values in allowed.items():
        if key in data and data[key] not in values:
            raise CheckpointError(
                f"{where}: {key}={data[key]!r} is not AIDO.RNA's architecture (expected {values[0]!r})"
            )
