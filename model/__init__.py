"""AIDO.RNA: configuration, tokenizer, exact packed encoder, checkpoints.

Names are looked up at first use, so that `import model` costs nothing and reading a configuration or a fingerprint
loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model import convert as convert
    from model import registry as registry
    from model.alphabet import Alphabet as Alphabet
    from model.api import Features as Features
    from model.api import Model as Model
    from model.config import AidoRnaConfig as AidoRnaConfig
    from model.decode import decode_structure as decode_structure
    from model.errors import CheckpointError as CheckpointError
    from model.errors import ModelError as ModelError
    from model.errors import SequenceError as SequenceError
    from model.head_config import HeadConfig as HeadConfig
    from model.head_files import find_heads as find_heads
    from model.identity import fingerprint as fingerprint
    from model.loading import load as load
    from model.losses import loss_terms as loss_terms
    from model.masking import mask_tokens as mask_tokens
    from model.registry import shipped_checkpoint as shipped_checkpoint
    from model.structure import Structure as Structure

_HOME = {
    "AidoRnaConfig": "model.config",
    "Alphabet": "model.alphabet",
    "CheckpointError": "model.errors",
    "Features": "model.api",
    "HeadConfig": "model.head_config",
    "Model": "model.api",
    "ModelError": "model.errors",
    "SequenceError": "model.errors",
    "Structure": "model.structure",
    "decode_structure": "model.decode",
    "find_heads": "model.head_files",
    "fingerprint": "model.identity",
    "load": "model.loading",
    "loss_terms": "model.losses",
    "mask_tokens": "model.masking",
    "shipped_checkpoint": "model.registry",
}
_MODULES = ("registry", "convert")

__all__ = [
    "AidoRnaConfig",
    "Alphabet",
    "CheckpointError",
    "Features",
    "HeadConfig",
    "Model",
    "ModelError",
    "SequenceError",
    "Structure",
    "convert",
    "decode_structure",
    "find_heads",
    "fingerprint",
    "load",
    "loss_terms",
    "mask_tokens",
    "registry",
    "shipped_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"model.{name}")
    raise AttributeError(f"module 'model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
