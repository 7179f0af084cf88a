"""What a trunk needs before it is trained: fresh weights, and how much dropout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from model.encoder import AidoRna, Attention, SwiGlu
from model.errors import ModelError


def init_weights(encoder: AidoRna, seed: int) -> None:
    """Give an encoder the weights of a fresh AIDO.RNA, in place; equal seeds give equal weights on every machine.

    As multimolecule starts it: linear maps and embedding from a normal distribution of the configuration's
    initializer_range (0.02), their biases 0, norms 1 and 0, the padding's row of the embedding 0. Encoders of one
    shape get the same trunk whether or not they have an LM head.

    Args:
        encoder: on any device but meta, of any floating point type.
        seed: 0 to 2**32 - 1.
    """
    state = encoder.state_dict()
    with torch.no_grad():
        for name, values in fresh_weights(state.items(), encoder.config.initializer_range, seed):
            state[name].copy_(torch.from_numpy(values))


def fresh_weights(tensors: Iterable[tuple[str, Tensor]], scale: float, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The values of `init_weights`, one tensor after another.

    NumPy's RandomState is used because its stream is frozen for good, while torch's depends on the processor's vector
    width.

    Args:
        tensors: names and tensors of an encoder's state in its order; only their shapes are looked at.
        scale: standard deviation.
        seed: 0 to 2**32 - 1.

    Returns:
        Names and float64 values.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ModelError(f"a seed is a whole number from 0 to 2**32 - 1, not {seed!r}")
    random = np.random.RandomState(seed)
    for name, tensor in tensors:
        if tensor.dim() == 2:
            values = random.standard_normal(tuple(tensor.shape)) * scale
            if name == "embedding.weight":
                values[0] = 0.0
        else:
            values = np.full(tuple(tensor.shape), 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        yield name, values


def set_dropout(encoder: AidoRna, hidden: float, attention: float) -> None:
    """Change how much dropout an encoder is trained with; its configuration, and so what is saved, stays.

    Args:
        encoder: the encoder; in evaluation mode it has no dropout whatever is set.
        hidden: probability after the last linear map of attention and SwiGLU, 0 to below 1.
        attention: probability on the attention's probabilities. Flash attention on CUDA has none: there it must be 0.
    """
    for name, value in (("hidden", hidden), ("attention", attention)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            raise ModelError(f"{name} dropout must be a probability from 0 to below 1, not {value!r}")
    encoder.attention_dropout = float(attention)
    for module in encoder.modules():
        if isinstance(module, Attention | SwiGlu):
            module.dropout.p = float(hidden)
