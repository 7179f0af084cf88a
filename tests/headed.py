"""Checkpoints with heads for every task: random weights that pass as trained."""

from __future__ import annotations

from pathlib import Path

import torch

from model import load
from model.alphabet import Alphabet
from model.checkpoint import write_checkpoint
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.head_config import HeadConfig

HEADS = {
    "rna_type": HeadConfig("sequence", "multiclass", 3, ("tRNA", "rRNA", "other"), pooling="mean"),
    "coding": HeadConfig("sequence", "binary", pooling="max"),
    "places": HeadConfig("sequence", "multilabel", 2, ("nucleus", "cytosol"), pooling="cls"),
    "half_life": HeadConfig("sequence", "regression"),
    "two_values": HeadConfig("sequence", "regression", 2, ("a", "b"), pooling="mean"),
    "loops": HeadConfig("token", "multiclass", 3, ("stem", "hairpin", "other")),
    "paired": HeadConfig("token", "binary"),
    "marks": HeadConfig("token", "multilabel", 2),
    "reactivity": HeadConfig("token", "regression"),
    "contacts": HeadConfig("contact", "binary"),
    "kinds": HeadConfig("contact", "multiclass", 3, ("none", "cis", "trans"), threshold=0.4),
    "structure": HeadConfig("structure"),
}


def make_headed(folder: Path, seed: int = 1) -> Path:
    """A checkpoint of one narrow layer with a pooler, a masked-LM head and all of `HEADS` as adapters."""
    config = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16)
    torch.manual_seed(seed)
    state = AidoRna(config, pooler=True, lm_head=True).state_dict()
    tensors = {name: torch.randn(value.shape) * 0.3 for name, value in state.items()}
    write_checkpoint(folder, config.to_json(), tensors, Alphabet())
    add_heads(folder, HEADS)
    return folder


def add_heads(folder: Path, heads: dict[str, HeadConfig], *, trained: bool = True) -> None:
    """Put adapters into the checkpoint's folder heads/."""
    model = load(folder)
    for seed, (name, config) in enumerate(heads.items(), 1):
        model.add_head(name, config, seed=seed)
        model.save_head(name, trained=trained)
