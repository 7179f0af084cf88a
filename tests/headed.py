"""Checkpoints with heads for every task, of random weights that pass as trained; and what they leave in an atlas."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


INLINE = ["--executor", "inline"]
SHARDS = ["--shard-tokens", "120"]
THREE = "structure,rna_type,reactivity"
SETS = ["embeddings/headed", *(f"predictions/{name}" for name in THREE.split(","))]


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


def rows(atlas: Path, folder: str) -> pa.Table:
    """All rows of a set, in the order of its shards."""
    return pa.concat_tables([pq.read_table(path) for path in parts(atlas, folder)])


def parts(atlas: Path, folder: str) -> list[Path]:
    return sorted((atlas / folder).glob("part-*.parquet"))


def times(atlas: Path) -> dict[Path, int]:
    """When every file of every set was written."""
    return {path: path.stat().st_mtime_ns for folder in SETS for path in parts(atlas, folder)}


def sequences(atlas: Path) -> list[str]:
    table = pa.concat_tables([pq.read_table(path) for path in sorted((atlas / "sequences").glob("*"))])
    return table.sort_by("seq_id")["sequence"].to_pylist()
