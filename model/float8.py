"""Products in 8-bit floating point (e4m3), a scale for each token and for each row of the weights.

On CUDA by torch's `_scaled_mm`; elsewhere the same numbers are multiplied in float32, which is slow, and there to say
what the rounding costs.

Legend: T packed tokens, I width in, O width out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import AidoRnaConfig
from model.errors import ModelError
from model.layers import Layer

TYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(TYPE).max  # 448
_LEAST = 1e-12  # of a scale: a row of zeros stays one
PRODUCTS = ("query_key_value", "output", "gate_up", "down")


class Float8(NamedTuple):
    """A matrix as 8-bit numbers: values (O, I) times scale (O, 1) float32."""

    values: Tensor
    scale: Tensor


def quantise(x: Tensor) -> Float8:
    """Round the rows of a matrix, each by the scale that brings its largest value to the largest number there is."""
    wide = x.float()
    scale = (wide.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp(min=_LEAST)
    # Clamped, for a quotient may round to above the largest number, which is NaN.
    return Float8((wide / scale).clamp(-LARGEST, LARGEST).to(TYPE), scale)


def float8_linear(x: Tensor, weight: Float8, bias: Tensor | None) -> Tensor:
    """(T, I) bfloat16 -> (T, O) bfloat16."""
    rows = quantise(x)
    if x.device.type != "cuda":
        return emulated(rows, weight, bias, x.dtype)
    return torch.ops.aten._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scale,
        scale_b=weight.scale.t(),
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )


def emulated(rows: Float8, weight: Float8, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What `float8_linear` gives but for the order of sums: products of the same 8-bit numbers, summed in float32."""
    out = F.linear(rows.values.float(), weight.values.float()) * rows.scale * weight.scale.t()
    return (out if bias is None else out + bias.float()).to(dtype)


def check_float8(config: AidoRnaConfig, device: torch.device) -> None:
    """Refuse what the kernel of `torch._scaled_mm` cannot do.

    Raises:
        ModelError: the GPU is too old, or a width is no multiple of 16.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ModelError(f"{device} has no products of 8-bit floating point (compute capability 8.9); use bfloat16")
    if config.hidden_size % 16 or config.intermediate_size % 16:
        raise ModelError(
            f"products of 8-bit floating point take widths that are multiples of 16, not {config.hidden_size} and "
            f"{config.intermediate_size}; use bfloat16"
        )


class Float8Layers:
    """The layers of a trunk with their weights in 8 bits, but for the first and the last one, which lose most by it.

    Made at their first use, and again where weights were changed since.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[tuple, Layer]] = {}

    def __call__(self, blocks: Sequence[nn.Module], layers: Sequence[Layer]) -> list[Layer]:
        """The layers to compute with.

        Args:
            blocks: all layers of a trunk as modules.
            layers: their weights in bfloat16.
        """
        found = list(layers)
        for place in range(1, len(layers) - 1):
            found[place] = self._quantised(place, blocks[place], layers[place])
        return found

    def _quantised(self, place: int, block: nn.Module, layer: Layer) -> Layer:
        # By the parameters: each counts its own changes, though several lie in one matrix.
        state = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in block.parameters())
        known = self._made.get(place)
        if known is None or known[0] != state:
            weights = {name: quantise(getattr(layer, name)) for name in PRODUCTS}
            known = self._made[place] = (state, layer._replace(**weights))
        return known[1]
