"""The two norms of AIDO.RNA; statistics in float32 at least, whatever the type of the input.

Legend: D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import AidoRnaConfig


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), cast back, times the weight; no bias (GenBio's RMSNorm)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) as `RmsNorm` gives it with the weight (D,)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


def make_norm(config: AidoRnaConfig, eps: float) -> nn.Module:
    """A norm of the configured kind over D; torch's LayerNorm keeps its statistics in float32 by itself."""
    if config.norm == "rmsnorm":
        return RmsNorm(config.hidden_size, eps)
    return nn.LayerNorm(config.hidden_size, eps)
