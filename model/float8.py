"""Products in 8-bit floating point (e4m3), a scale for each token and for each row of the weights.

On CUDA by `torch._scaled_mm`; elsewhere the same numbers are multiplied in float32, which is slow, and there to say what
the rounding costs.

Legend: T packed tokens, I width in, O width out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    return torch._scaled_mm(
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


class Float8Layers:
    """The layers of a trunk with their weights in 8 bits, but for the first and the last one, which lose most by it.

    Made at their first use, and again where weights were changed since.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[tuple, Layer]] = {}

    def __call__(self, layers: list[Layer]) -> list[Layer]:
        """Layers of bfloat16, all of a trunk, to those to compute with."""
        middle = range(1, len(layers) - 1)
        return [self._quantised(place, layer) if place in middle else layer for place, layer in enumerate(layers)]

    def _quantised(self, place: int, layer: Layer) -> Layer:
        weights = {name: getattr(layer, name) for name in PRODUCTS}
        state = tuple((weight.data_ptr(), weight._version) for weight in weights.values())
        known = self._made.get(place)
        if known is None or known[0] != state:
            known = (state, layer._replace(**{name: quantise(weight) for name, weight in weights.items()}))
            self._made[place] = known
        # What is not quantised, as it is now.
        return known[1]._replace(**{name: value for name, value in layer._asdict().items() if name not in weights})
