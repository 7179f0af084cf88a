"""A checkpoint of random weights that says so."""

from __future__ import annotations

from pathlib import Path

from model.alphabet import Alphabet
from model.checkpoint import save_checkpoint
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.training import init_weights


def make_untrained(folder: Path, *, width: int = 32, says_so: bool = True) -> Path:
    """A small trunk with a masked-LM head, as pre-training begins with.

    Args:
        width: 32 for least work; 256 takes some seconds of one core for 60,000 tokens.
        says_so: whether its configuration admits that the weights are random, as commands repeat to their users.
    """
    config = AidoRnaConfig(
        num_layers=2, hidden_size=width, num_heads=max(2, width // 32), intermediate_size=width * 3 // 2
    )
    encoder = AidoRna(config, lm_head=True)
    init_weights(encoder, 0)
    save_checkpoint(folder, encoder, Alphabet(), {}, {}, about={"name": folder.name, "trained": not says_so})
    return folder
