"""What stands on the encoder: the masked-LM head and the pooler.

Legend: T packed tokens, S segments, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import AidoRnaConfig
from model.norm import make_norm


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
