"""Make the demonstration checkpoint bit for bit: python -m model.make_nano DST.

It is untrained: weights as a fresh AIDO.RNA has them, from a fixed seed. NumPy's RandomState is used because its stream
is frozen for good, while torch's depends on the processor's vector width.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from model.alphabet import STANDARD_TOKENS, Alphabet
from model.checkpoint import write_checkpoint
from model.encoder import AidoRna
from model.errors import ModelError
from model.registry import get

_SEED = 20240


def make_nano(folder: Path) -> None:
    """Write the untrained demonstration checkpoint, stored in float16, into a new folder."""
    config = get("nano").config
    random = np.random.RandomState(_SEED)
    with torch.device("meta"):
        names = AidoRna(config, lm_head=True).state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for name, meta in names.items():
        if meta.dim() == 2:
            drawn = random.standard_normal(tuple(meta.shape)) * config.initializer_range
            tensors[name] = torch.from_numpy(drawn.astype(np.float16))
        else:
            fill = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensors[name] = torch.full(tuple(meta.shape), fill, dtype=torch.float16)
    tensors["embedding.weight"][0] = 0.0
    settings = {"architectures": ["AidoRnaForMaskedLM"], **config.to_json(), "torch_dtype": "float16"}
    settings["raypipe"] = {"name": "nano", "trained": False, "source": "python -m model.make_nano"}
    write_checkpoint(folder, settings, tensors, Alphabet(STANDARD_TOKENS))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m model.make_nano DST")
    try:
        make_nano(Path(sys.argv[1]))
    except ModelError as error:
        sys.exit(str(error))
