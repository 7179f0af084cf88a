"""Checkpoints with random heads, for what does not depend on the weights; see heads.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model import load, registry
from model.adapters import write_adapter
from model.alphabet import STANDARD_TOKENS, Alphabet
from model.checkpoint import write_checkpoint
from model.encoder import AidoRna
from model.head_config import HeadConfig
from model.heads import make_head
from model.structure_head import StructureHead

WIDE = "aido.rna-650m"
CONFIGS = {
    "rna_type": HeadConfig("sequence", "multiclass", 9, pooling="mean"),
    "loops": HeadConfig("token", "multiclass", 4),
    "structure": HeadConfig("structure"),
}


def wide_checkpoint(folder: Path, layers: int, seed: int) -> None:
    """Random weights with the widths of AIDO.RNA-650M."""
    config = replace(registry.get(WIDE).config, num_layers=layers)
    torch.manual_seed(seed)
    encoder = AidoRna(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=config.initializer_range)
    write_checkpoint(folder, config.to_json(), encoder.state_dict(), Alphabet(STANDARD_TOKENS))


def write_heads(folder: Path, sequences: list[str], seed: int) -> None:
    """Make the heads of `CONFIGS` and write them as adapters of the checkpoint.

    Args:
        folder: the checkpoint.
        sequences: which the structure head's bias is fitted to.
        seed: of the weights.
    """
    model = load(folder)
    torch.manual_seed(seed)
    for name, config in CONFIGS.items():
        head = make_head(config, model.config.hidden_size)
        if isinstance(head, StructureHead):
            fit_bias(head, [torch.from_numpy(states[1:-1]) for states in model.encode(sequences)])
        path = folder / "heads" / f"{name}.safetensors"
        # Said to be trained: the results of other heads are refused.
        write_adapter(path, head, config, trunk=model.fingerprint, trained=True)


def fit_bias(head: StructureHead, states: list[Tensor]) -> None:
    """Move a structure head's bias so that as many pairs have a probability above 0.5 as there are nucleotides."""
    with torch.inference_mode():
        maps = [head(hidden) for hidden in states]
    logits = torch.cat([pairs[tuple(torch.triu_indices(len(pairs), len(pairs), 1))] for pairs in maps])
    wanted = sum(len(hidden) for hidden in states)
    limit = logits.sort(descending=True).values[min(wanted, len(logits) - 1)].item()
    assert head.prediction.bias is not None
    with torch.no_grad():
        head.prediction.bias -= limit
