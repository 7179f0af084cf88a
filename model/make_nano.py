"""Make the demonstration checkpoint bit for bit: python -m model.make_nano DST.

It is untrained: weights as a fresh AIDO.RNA has them, from a fixed seed.
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
from model.training import fresh_weights

_SEED = 20240


def make_nano(folder: Path) -> None:
    """Write the untrained demonstration checkpoint, stored in float16, into a new folder."""
    config = get("nano").config
    with torch.device("meta"):
        state = AidoRna(config, lm_head=True).state_dict()
    tensors = {
        name: torch.from_numpy(values.astype(np.float16))
        for name, values in fresh_weights(state.items(), config.initializer_range, _SEED)
    }
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
