"""What a trunk needs before it is trained: fresh weights, and how much dropout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from model.attention import ROTARY_BASE
from model.encoder import AidoRna, Attention, Block, SwiGlu
from model.errors import ModelError

_MARGIN = 3.0
"""Of the score of the place that a head begins at over that of the places beside it: these get a twentieth."""
_SLOWEST = 0.05
"""Angle of the slowest rotary pair that takes part, in radians for each place."""
_QUIET = 0.1
"""Factor of what begins small."""


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


def look_at_neighbours(encoder: AidoRna) -> None:
    """Let a fresh encoder begin as a bank of local motifs, in place.

    Head h of N begins by looking at the place h - N/2 away from its own, so that a token of the first layer is a random
    function of the N letters around it. In the layers above only every other head does: base pairs are far apart, and
    a head that looks at its neighbour does not learn of them. It is done by biases alone: with rotary positions a query
    of bias (a cos(d t), a sin(d t)) and a key of bias (a, 0) in the pair of angle t have the product
    a^2 cos((s - p - d) t) between places p and s, which summed over the angles is largest where s = p + d. The
    content's part of queries and keys begins small beside it, and so does what the layers above the first add. All of
    it is trained like any weight.

    Fresh attention looks everywhere alike, and finding out that neighbours matter takes millions of tokens. Beginning
    with a structure that training is known to arrive at is after Trockman & Kolter, Mimetic Initialization of
    Self-Attention Layers (2023).

    Args:
        encoder: as `init_weights` leaves it; its linear maps have biases.
    """
    config = encoder.config
    if not config.linear_bias:
        raise ModelError("heads begin at neighbours by the biases of queries and keys, and this encoder has none")
    pairs = torch.arange(0, config.head_size, 2, dtype=torch.float64)
    angles = 1.0 / ROTARY_BASE ** (pairs / config.head_size)
    # Slow angles tell neighbours apart no more than rounding does.
    fast = angles >= _SLOWEST
    lost = (1 - torch.cos(angles[fast])).sum()
    size = fast * torch.sqrt(_MARGIN * config.head_size**0.5 / lost)
    offsets = torch.arange(config.num_heads, dtype=torch.float64)[:, None] - config.num_heads // 2
    query = torch.cat([size * torch.cos(offsets * angles), size * torch.sin(offsets * angles)], dim=1)
    key = torch.cat([size, torch.zeros_like(size)]).expand_as(query)
    with torch.no_grad():
        for number, layer in enumerate(encoder.layers):
            assert isinstance(layer, Block)
            chosen = slice(None, None, 2 if number else 1)
            for linear, bias in ((layer.attention.query, query), (layer.attention.key, key)):
                linear.bias.view_as(bias)[chosen] = bias[chosen].to(linear.bias)
                linear.weight.view(*bias.shape, -1)[chosen] *= _QUIET
            if number:
                layer.attention.output.weight *= _QUIET
                layer.mlp.down.weight *= _QUIET


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
