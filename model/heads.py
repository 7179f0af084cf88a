"""What stands on the encoder: the masked-LM head, the pooler, and the task heads.

The parameters of a task head are called as in multimolecule, after the prefix of its kind (`model.keymap`), so that
its checkpoints load without renaming. Task heads live and compute in float32, whatever the type of the encoder.

Legend: T packed tokens, L nucleotides of one sequence, S sequences, D hidden size, C labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import AidoRnaConfig
from model.head_config import HeadConfig
from model.norm import make_norm
from model.structure_head import StructureHead

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}
"""The activations of `model.head_config.ACTIVATIONS`."""


class LmHead(nn.Module):
    """Dense, GELU (erf), norm, then scores against the vocabulary."""

    def __init__(self, config: AidoRnaConfig, *, tied: bool = True) -> None:
        super().__init__()
        width = config.hidden_size
        # Its linear map has a bias even where the encoder's have none.
        self.dense = nn.Linear(width, width)
        self.norm = make_norm(config, config.lm_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = None if tied else nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(T, D) and the embedding (V, D) -> logits (T, V)."""
        x = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(x, embedding if self.decoder is None else self.decoder.weight, self.bias)


class Pooler(nn.Module):
    """tanh(Linear(state of <cls>)), multimolecule's pooler."""

    def __init__(self, config: AidoRnaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, cls: Tensor) -> Tensor:
        """(S, D) -> (S, D)."""
        return torch.tanh(self.dense(cls))


class Transform(nn.Module):
    """Dense, on request an activation, and layer norm: what may stand before the last linear map of a task head."""

    def __init__(self, config: HeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, config.norm_eps)
        self.act = ACTIVATION[config.transform_act if config.transform == "nonlinear" else "linear"]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.layer_norm(self.act(self.dense(x)))


class LinearHead(nn.Module):
    """Dropout (in training), transform, one linear map, activation; row by row.

    Args:
        config: of the head.
        hidden_size: D.
    """

    def __init__(self, config: HeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.transform = nn.Identity() if config.transform is None else Transform(config, hidden_size)
        self.decoder = nn.Linear(hidden_size, config.num_labels, config.bias)
        self.act = ACTIVATION[config.act or "linear"]
        for part in self.modules():
            if isinstance(part, nn.Linear):
                # As multimolecule starts its heads (initializer_range 0.02).
                nn.init.normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) of any floating point type -> logits (..., C) float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.act(self.score(self.read(hidden)))

    def read(self, hidden: Tensor) -> Tensor:
        """What the linear map is given, (..., D) -> (..., D) in the head's own type."""
        return self.transform(self.dropout(hidden.to(self.decoder.weight.dtype)))

    def score(self, x: Tensor) -> Tensor:
        """The linear map."""
        return self.decoder(x)


class SequenceHead(LinearHead):
    """One pooled vector per sequence, (S, D) -> (S, C)."""


class TokenHead(LinearHead):
    """Every nucleotide on its own, (T, D) -> (T, C). Special tokens are no nucleotides: leave them out."""


class ContactHead(LinearHead):
    """Every pair of nucleotides of one sequence, (L, D) -> (L, L, C), exactly symmetric; or of several of one length.

    With z what the linear map is given, logit[i, j, c] = sum over d of z[i, d] z[j, d] W[c, d], plus the bias: the
    reference's linear map of the element-wise product z_i * z_j. It is computed here as one matrix product per label,
    so memory grows with L * L * C; multimolecule holds all the products, L * L * D numbers (5 GB for 1022 nucleotides
    and D = 1280). The values differ by float32 rounding.
    """

    def score(self, x: Tensor) -> Tensor:
        """(L, D) -> (L, L, C); of several sequences of one length (S, L, D) -> (S, L, L, C)."""
        maps = torch.stack([(x * row) @ x.mT for row in self.decoder.weight], dim=-1)
        maps = (maps + maps.transpose(-3, -2)) / 2
        return maps if self.decoder.bias is None else maps + self.decoder.bias


def make_head(config: HeadConfig, hidden_size: int) -> LinearHead | StructureHead:
    """A task head with fresh weights, in float32.

    Args:
        config: of the head.
        hidden_size: width D of the encoder.
    """
    kinds = {"sequence": SequenceHead, "token": TokenHead, "contact": ContactHead, "structure": StructureHead}
    return kinds[config.kind](config, hidden_size).float()
