"""Operations and memory of inference, computed from the shape of a trunk. Loads no torch.

Bytes are those of this package's own tensors: a CUDA context and the libraries' workspaces take half a gigabyte more.

Legend: T packed tokens, L tokens of a segment, D hidden size, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Iterable

from model.config import AidoRnaConfig

DEFAULT_MAX_TOKENS = {"cpu": 8192, "cuda": 33792}
"""Tokens of one packed forward; on CUDA whole waves of 128-row tiles over 132 multiprocessors."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def encoder_weights(config: AidoRnaConfig) -> int:
    """Weights of the encoder's linear maps, which is nearly all of them: 4 D^2 + 3 D F a layer."""
    return config.num_layers * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)


def linear_flops(config: AidoRnaConfig) -> int:
    """Operations of the linear maps for one token; a multiplication and an addition are two."""
    return 2 * encoder_weights(config)


def attention_flops(config: AidoRnaConfig, length: int) -> int:
    """Operations of the products in attention for one token of a segment of L tokens."""
    return 4 * config.num_layers * config.hidden_size * length


def flops(config: AidoRnaConfig, lengths: Iterable[int]) -> int:
    """Operations of one pass over segments of these many tokens; norms, rotary positions and SwiGLU are not counted."""
    return sum(length * (linear_flops(config) + attention_flops(config, length)) for length in lengths)


def weight_bytes(config: AidoRnaConfig, dtype: str) -> int:
    """Of a trunk without heads.

    Args:
        config: its shape.
        dtype: one of ITEM_BYTES, or "float8", which keeps the weights in bfloat16 beside those in 8 bits.
    """
    width, inner = config.hidden_size, config.intermediate_size
    norm = width * (2 if config.norm == "layernorm" else 1)
    vectors = config.linear_bias * (5 * width + 2 * inner) + 2 * norm
    count = encoder_weights(config) + config.num_layers * vectors + config.vocab_size * width + norm
    if dtype != "float8":
        return count * ITEM_BYTES[dtype]
    quantised = max(0, config.num_layers - 2)
    scales = 4 * quantised * (5 * width + 2 * inner)
    return 2 * count + encoder_weights(config) * quantised // config.num_layers + scales


def activation_bytes(config: AidoRnaConfig, tokens: int, dtype: str) -> int:
    """What a batch of T tokens takes at most beside the weights, layers not compiled; compiled they take less.

    The most is needed either where positions are turned, in float32, or inside the SwiGLU, or in pooling.
    """
    width, inner, item = config.hidden_size, config.intermediate_size, ITEM_BYTES.get(dtype, 2)
    turning = (1 + 1 + 3 + 2) * width * item + (6 if item == 2 else 4) * width * 4
    swiglu = 4 * width * item + 4 * inner * item
    pooling = width * (item + (8 if item == 2 else 4))
    return tokens * max(turning, swiglu, pooling)
