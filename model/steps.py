"""A layer without gradients, cut where attention stands, so that each piece is one function of tensors.

Attention is a kernel of its own that takes segments of any lengths; all between two of them has a shape that depends on
the number of tokens alone and can be compiled once for it: residual, norm, linear maps, SwiGLU and rotary positions
become a few kernels around the products. The pieces run as they are on every device, which is what the compiled ones
are compared with.

Legend: T packed tokens, D hidden size, N heads, H head size.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import rotate
from model.layers import Layer
from model.norm import rms_norm
from model.products import gated, linear, linear_added


class Shape(NamedTuple):
    """What the pieces have to know beside tensors: N, H, and the norms' epsilon."""

    heads: int
    head_size: int
    eps: float


Projected = tuple[Tensor, Tensor, Tensor]
"""Query and key, turned by their positions, and value: each (T, N, H)."""


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm, or without a bias the RMS norm; (T, D) -> (T, D)."""
    return rms_norm(x, weight, eps) if bias is None else F.layer_norm(x, weight.shape, weight, bias, eps)


def enter(x: Tensor, layer: Layer, cosine: Tensor, sine: Tensor, shape: Shape) -> Projected:
    """From the residual stream (T, D) to what attention takes; cosine and sine are (T, 1, H/2) float32."""
    y = norm(x, layer.attention_norm, layer.attention_norm_bias, shape.eps)
    whole = linear(y, layer.query_key_value, layer.query_key_value_bias).unflatten(
        -1, (3 * shape.heads, shape.head_size)
    )
    turned = rotate(whole[:, : 2 * shape.heads], cosine, sine)
    return turned[:, : shape.heads], turned[:, shape.heads :], whole[:, 2 * shape.heads :]


def leave(x: Tensor, attended: Tensor, layer: Layer, shape: Shape) -> Tensor:
    """From the residual stream (T, D) and what attention gave (T, N, H) to the residual stream after the layer."""
    x = linear_added(x, attended.flatten(-2), layer.output, layer.output_bias)
    y = norm(x, layer.mlp_norm, layer.mlp_norm_bias, shape.eps)
    return linear_added(x, gated(y, layer.gate_up, layer.gate_up_bias), layer.down, layer.down_bias)


def cross(
    x: Tensor, attended: Tensor, layer: Layer, following: Layer, cosine: Tensor, sine: Tensor, shape: Shape
) -> tuple[Tensor, Projected]:
    """`leave` one layer and `enter` the next."""
    x = leave(x, attended, layer, shape)
    return x, enter(x, following, cosine, sine, shape)


@dataclass(frozen=True)
class Steps:
    """The pieces to compute with."""

    enter: Callable[..., Projected] = enter
    cross: Callable[..., tuple[Tensor, Projected]] = cross
    leave: Callable[..., Tensor] = leave


PLAIN = Steps()
COMPILATIONS = 64
"""Of one piece, at most."""


def compiled(**options: Any) -> Steps:
    """The pieces compiled by torch for the one number of tokens that they will be called with.

    Args:
        options: of torch.compile.
    """
    # Every budget, width and type of weights is a compilation of its own; one more than the limit is an error.
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options = {"recompile_limit": COMPILATIONS, **options}
    else:  # an older torch, with one limit for all that it compiles
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(COMPILATIONS, dynamo.recompile_limit)
    made = {
        piece.name: torch.compile(getattr(PLAIN, piece.name), dynamic=False, fullgraph=True, **options)
        for piece in fields(Steps)
    }
    return Steps(**made)


def no_compiler() -> str:
    """What this machine lacks to compile for CUDA, in words; "" where it lacks nothing.

    Triton builds a small program for every kernel with a C compiler and Python's headers.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed, which torch compiles for CUDA with"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "there is no C compiler (gcc, or what CC names), which Triton needs"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "there are no headers of Python (python3-dev), which Triton needs"
    return ""
