"""The parts of a forward pass alone: products, attention, what stands between them, pooling. See gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import choose_backend, rotary, rotate
from model.config import AidoRnaConfig
from model.encoder import AidoRna, Block
from model.float8 import float8_linear, quantise
from model.layers import layer_of
from model.packing import Layout
from model.pooling import reduce_segments
from model.steps import PLAIN, Shape
from tests.benchmarks.gpu_setup import Bench, even

HALF = torch.bfloat16
ATTENTION_LENGTHS = (24, 75, 300, 1000)
Rows = list[dict[str, Any]]


def peak(bench: Bench) -> float:
    """Operations a second of a product of two square matrices in bfloat16, of 8192 rows."""
    size = 256 if bench.smoke else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=HALF) for _ in range(2))
    return 2 * size**3 / bench.seconds(lambda: a @ b, 20 if not bench.smoke else 1)


def products(config: AidoRnaConfig) -> dict[str, tuple[int, int]]:
    """Width in and out of the products of a layer."""
    width, inner = config.hidden_size, config.intermediate_size
    return {
        "query, key, value": (width, 3 * width),
        "output": (width, width),
        "gate, up": (width, 2 * inner),
        "down": (inner, width),
    }


def products_alone(bench: Bench, config: AidoRnaConfig, budgets: tuple[int, ...], *, float8: bool) -> Rows:
    """Every product of a layer alone, at each budget; in 8 bits with and without the rounding of what it reads."""
    rows: Rows = []
    for tokens in budgets:
        for name, (wide, out) in products(config).items():
            x = torch.randn(tokens, wide, device=bench.device, dtype=HALF)
            weight = torch.randn(out, wide, device=bench.device, dtype=HALF) * 0.02
            bias = torch.randn(out, device=bench.device, dtype=HALF)
            work = 2 * tokens * wide * out
            plain = bench.seconds(lambda x=x, w=weight, b=bias: F.linear(x, w, b))
            row = {"tokens": tokens, "product": name, "seconds": plain, "flops": work / plain}
            if float8:
                eight = quantise(weight)
                row["float8_flops"] = work / bench.seconds(lambda x=x, w=eight, b=bias: float8_linear(x, w, b))
            rows.append(row)
    return rows


def attention(bench: Bench, config: AidoRnaConfig, tokens: int, whole: Layout) -> Rows:
    """The attention kernel on segments of one length, and on a batch of the mix (length 0)."""
    layouts = {length: even(min(length, tokens), tokens, bench.device) for length in ATTENTION_LENGTHS} | {0: whole}
    rows: Rows = []
    for length, layout in layouts.items():
        work = 4 * config.hidden_size * sum(size * size for size in layout.lengths)
        taken = attention_seconds(bench, config, layout)
        rows.append({"length": length, "tokens": layout.tokens, "seconds": taken, "flops": work / taken})
    return rows


def attention_seconds(bench: Bench, config: AidoRnaConfig, layout: Layout) -> float:
    """Of the attention kernel on a batch."""
    kernel = choose_backend(bench.device, HALF)
    shape = (layout.tokens, config.num_heads, config.head_size)
    q, k, v = (torch.randn(shape, device=bench.device, dtype=HALF) for _ in range(3))
    return bench.seconds(lambda: kernel(q, k, v, layout))


def between(bench: Bench, encoder: AidoRna, tokens: int, *, compile: bool) -> Rows:
    """What stands between products and attention, kernel by kernel and as the pieces of a layer, plain and compiled.

    A kernel's bytes are those that it must read and write at the least. Compiled, the trunk's own pieces are taken.
    """
    config, item = encoder.config, 2
    width, inner = config.hidden_size, config.intermediate_size
    layout = even(min(256, tokens), tokens, bench.device)
    tokens = layout.tokens
    angles = rotary(layout, config.head_size)
    block = encoder.layers[0]
    assert isinstance(block, Block)
    norm = block.mlp_norm

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=bench.device, dtype=HALF)

    def residual_norm(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x + y
        return x, norm(x)

    def swiglu(both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    layer = layer_of(block)
    assert layer is not None
    shape = Shape(config.num_heads, config.head_size, config.norm_eps)
    heads = randn(tokens, 2 * config.num_heads, config.head_size)
    x, attended = randn(tokens, width), randn(tokens, config.num_heads, config.head_size)
    least = tokens * item
    cases: dict[str, tuple[Callable[..., Any], tuple, int]] = {
        "residual and norm": (residual_norm, (x, randn(tokens, width)), 4 * width * least),
        "rotary positions": (rotate, (heads, *angles), 4 * width * least),
        "SwiGLU": (swiglu, (randn(tokens, 2 * inner),), 3 * inner * least),
    }
    rows: Rows = []
    with torch.inference_mode():
        for name, (function, arguments, moved) in cases.items():
            row = {"kernel": name, "bytes": moved, "plain": bench.seconds(lambda f=function, a=arguments: f(*a))}
            if compile:
                fused = torch.compile(function, dynamic=False, fullgraph=True)
                row["compiled"] = bench.seconds(lambda f=fused, a=arguments: f(*a))
            rows.append(row)
        arguments = (x, attended, layer, layer, *angles, shape)
        row = {"kernel": "all between two attentions, products included", "bytes": 0}
        row["plain"] = bench.seconds(lambda: PLAIN.cross(*arguments))
        if compile:
            row["compiled"] = bench.seconds(lambda: encoder.fixed.cross(*arguments))
        rows.append(row)
    return rows


def pooling(bench: Bench, config: AidoRnaConfig, layout: Layout) -> float:
    """Seconds of the float32 mean of every segment of a batch."""
    hidden = torch.randn(layout.tokens, config.hidden_size, device=bench.device, dtype=HALF)
    weights = torch.rand(layout.tokens, device=bench.device)
    return bench.seconds(lambda: reduce_segments(hidden.float(), layout, "mean", weights))
