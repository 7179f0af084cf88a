"""The secondary-structure head: a small convolutional network over all pairs of nucleotides.

Legend: L nucleotides of one sequence, D hidden size, K channels (64).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.head_config import HeadConfig

CHANNELS = 64
BLOCKS = 2
NORM_EPS = 1e-5
_BLOCK_PAIRS = 1 << 16
"""Pairs that one convolution takes at a time without gradients: 16 MiB of channels."""


class _Residual(nn.Module):
    """1x1, 3x3 and 1x1 convolutions without bias, each followed by instance norm and ReLU; the input is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(K, L, L) -> (K, L, L), with gradients, in the number type of x."""
        y = x[None]
        for conv in (self.conv1, self.conv2, self.conv3):
            y = F.conv2d(y, conv.weight.to(x.dtype), padding=conv.padding)  # pyright: ignore[reportArgumentType]
            y = torch.relu_(F.instance_norm(y, eps=NORM_EPS))
        return x + y[0]

    def infer(self, x: Tensor, rows: int) -> Tensor:
        """(S, K, L, L) without gradients, in place: x is overwritten, and two more maps of its size live beside it."""
        y = _normalise(_convolve(self.conv1, x, torch.empty_like(x), rows))
        z = _normalise(_convolve(self.conv2, y, torch.empty_like(x), rows))
        del y
        return x.add_(_normalise(_convolve(self.conv3, z, z, rows)))


class StructureHead(nn.Module):
    """Base pairs of one sequence, (L, D) -> (L, L), symmetric with a zero diagonal.

    multimolecule 0.0.8's head (AidoRnaForSecondaryStructurePrediction): the vectors of i and j, interleaved element by
    element, go through a linear map to K channels for i <= j, the lower triangle mirrors the upper; two residual
    blocks; a 3x3 convolution to one channel, of which the strict upper triangle is kept and mirrored.

    The interleaved vectors are never made (L * L * 2 D numbers): with A the even and B the odd columns of the linear
    map, channels(i, j) = A z_i + B z_j + b. Without gradients the convolutions run over blocks of rows, and at most
    three maps of K * L * L float32 (267 MB each at 1022 nucleotides) live at a time; with gradients autograd keeps
    about twenty. Sequences of one length may be computed together, never padded: the reference's instance norm sees the
    padding of a batch, so its maps depend on what else is in the batch; these do not.

    Args:
        config: of the head.
        hidden_size: D.

    Attributes:
        learning_dtype: of the maps while gradients are asked for, float32 unless set. In bfloat16 a step takes little
            more than half the time on CPUs that have it; weights, gradients and logits are float32 all the same, and
            so is everything without gradients.
    """

    def __init__(self, config: HeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.learning_dtype = torch.float32
        self.projection = nn.Linear(2 * hidden_size, CHANNELS)
        self.convnet = nn.ModuleList(_Residual() for _ in range(BLOCKS))
        self.prediction = nn.Conv2d(CHANNELS, 1, 3, padding=1)
        # As multimolecule starts its linear maps (initializer_range 0.02).
        nn.init.normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    def forward(self, hidden: Tensor, *, rows: int | None = None) -> Tensor:
        """Logits of base pairs.

        Args:
            hidden: (L, D) states of the nucleotides (special tokens left out), of any floating point type; without
                gradients also (S, L, D), of S sequences of one length.
            rows: rows of the map that one convolution takes at a time where no gradients are asked for; the logits do
                not depend on it. None chooses by memory.

        Returns:
            (L, L) float32, or (S, L, L).
        """
        *several, length, _ = hidden.shape
        if length < 2:
            # Nothing but the diagonal, and instance norm has no statistics of one value.
            nothing = hidden.new_zeros(*several, length, length, dtype=self.projection.weight.dtype)
            return nothing + 0 * self.projection.bias[0]
        with torch.autocast(hidden.device.type, enabled=False), _full_float32():
            left, right = self._halves(hidden)
            if torch.is_grad_enabled():
                x = _pairs(left, right, 0, length).to(self.learning_dtype)
                for block in self.convnet:
                    x = block(x)
                logits = self.prediction(x[None].float())[0, 0]
            else:
                left, right = (x.view(-1, CHANNELS, length) for x in (left, right))
                logits = self._infer(left, right, rows or _BLOCK_PAIRS // (length * len(left)))
                logits = logits.view(*several, length, length)
        upper = logits.triu(1)
        return upper + upper.mT

    def _halves(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """A z + b and B z for every nucleotide, each (..., K, L)."""
        weight = self.projection.weight
        hidden = hidden.to(weight.dtype)
        left = F.linear(hidden, weight[:, 0::2], self.projection.bias)
        return left.mT, F.linear(hidden, weight[:, 1::2]).mT

    def _infer(self, left: Tensor, right: Tensor, rows: int) -> Tensor:
        """From the halves, (S, K, L) each, to (S, 1, L, L)."""
        length, rows = left.shape[-1], max(1, rows)
        x = left.new_empty(*left.shape, length)
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            x[:, :, start:stop] = _pairs(left, right, start, stop)
        for block in self.convnet:
            assert isinstance(block, _Residual)
            x = block.infer(x, rows)
        return _convolve(self.prediction, x, x.new_empty(len(x), 1, length, length), rows)


def _pairs(left: Tensor, right: Tensor, start: int, stop: int) -> Tensor:
    """Channels of the pairs (i, j) with start <= i < stop: left[i] + right[j] for i <= j, else left[j] + right[i]."""
    columns = torch.arange(left.shape[-1], device=left.device)
    upper = left[..., start:stop, None] + right[..., None, :]
    lower = right[..., start:stop, None] + left[..., None, :]
    return torch.where(columns[start:stop, None] <= columns, upper, lower)


def _convolve(conv: nn.Conv2d, x: Tensor, out: Tensor, rows: int) -> Tensor:
    """A convolution of (S, K, L, L) into `out`, some rows at a time; `out` may be `x` where the kernel is 1x1."""
    length = x.shape[2]
    reach = (conv.kernel_size[0] - 1) // 2
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        first, last = max(start - reach, 0), min(stop + reach, length)
        # The rows beside the block are there for their neighbours; their own values, cut off at the edge, are dropped.
        done = conv(x[:, :, first:last])
        out[:, :, start:stop] = done[:, :, start - first : stop - first]
    return out


def _normalise(x: Tensor) -> Tensor:
    """Instance norm and ReLU of (S, K, L, L), in place."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return x.sub_(mean).mul_(torch.rsqrt(variance + NORM_EPS)).relu_()


@contextmanager
def _full_float32() -> Iterator[None]:
    """On CUDA torch lets cuDNN round what a convolution reads to TF32 unless told otherwise."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = before
