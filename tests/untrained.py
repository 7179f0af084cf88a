"""A checkpoint of random weights that says so."""

from __future__ import annotations

from pathlib import Path

from model.alphabet import Alphabet
from model.checkpoint import save_checkpoint
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.training import init_weights


def make_untrained(folder: Path) -> Path:
    """A small trunk with a masked-LM head, as pre-training begins with."""
    config = AidoRnaConfig(num_layers=2, hidden_size=32, num_heads=2, intermediate_size=48)
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 0)
    save_checkpoint(folder, encoder, Alphabet(), {}, {}, about={"name": folder.name, "trained": False})
    return folder
