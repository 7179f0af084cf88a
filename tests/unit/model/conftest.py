"""Small random checkpoints, written and read through the package itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.alphabet import Alphabet
from model.checkpoint import write_checkpoint
from model.config import AidoRnaConfig
from model.encoder import AidoRna

TINY = AidoRnaConfig(num_layers=2, hidden_size=32, num_heads=4, intermediate_size=48)


def _random_tensors(config: AidoRnaConfig = TINY, **parts: bool) -> dict[str, torch.Tensor]:
    """Weights by our names, large enough for every part of the arithmetic to matter."""
    torch.manual_seed(7)
    tensors = {}
    for name, value in AidoRna(config, **parts).state_dict().items():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = centre + 0.2 * torch.randn(value.shape)
    return tensors


@pytest.fixture(scope="session")
def tiny_config() -> AidoRnaConfig:
    return TINY


@pytest.fixture(scope="session")
def random_tensors() -> Callable[..., dict[str, torch.Tensor]]:
    return _random_tensors


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint: encoder, pooler, tied LM head."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(folder, TINY.to_json(), _random_tensors(pooler=True, lm_head=True), Alphabet())
    return folder
