"""Linear maps without gradients, by the fastest kernel that the device has, each beside a plain one.

On a CPU products go to oneDNN, whatever torch's own linear map would take: in float32 that is MKL, which is half as
fast on AMD. The weights stay as they are. Handing them over in oneDNN's own blocked layout was measured to gain another
5 % with a thousand tokens and more, for a second copy of every weight.

Legend: T packed tokens, I width in, O width out, F intermediate size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.float8 import Float8, float8_linear

Weight = Tensor | Float8
"""(O, I)."""


def linear(x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
    """(T, I) -> (T, O)."""
    if isinstance(weight, Float8):
        return float8_linear(x, weight, bias)
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_added(residual: Tensor, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
    """residual (T, O) + the linear map of x (T, I)."""
    if not isinstance(weight, Float8) and _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return residual + linear(x, weight, bias)


def gated(x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
    """silu(gate(x)) * up(x), the first part of a SwiGLU: (T, I) -> (T, F).

    Args:
        x: (T, I).
        weight: of both maps, (2 F, I): gate's rows, then up's.
        bias: (2 F,), or None.
    """
    if not isinstance(weight, Float8) and _by_onednn(x):
        # Each product's last step does what else would be a pass over memory of its own.
        (gate, up), (gate_bias, up_bias) = weight.chunk(2), (None, None) if bias is None else bias.chunk(2)
        opened = torch.ops.mkldnn._linear_pointwise(x, gate, gate_bias, "swish", [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, opened, up, up_bias, "mul")
    gate, up = linear(x, weight, bias).chunk(2, dim=-1)
    return F.silu(gate) * up


def _by_onednn(x: Tensor) -> bool:
    return bool(
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()  # which knows these functions with frozen weights only
        and torch.backends.mkldnn.enabled
        and _onednn_takes(x.dtype)
    )


@lru_cache
def _onednn_takes(dtype: torch.dtype) -> bool:
    """Found out by a try: not every build of torch has oneDNN, nor oneDNN bfloat16 for every processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.zeros(16, 16, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
    except RuntimeError:
        return False
    return True
