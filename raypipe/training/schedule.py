"""How fast to learn, and with what: the learning rate of every step, and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from raypipe.training.settings import PretrainSettings


def learning_rate(step: int, steps: int, settings: PretrainSettings) -> float:
    """Of step `step` (from 0) of `steps`: linear to the peak, then a cosine to the final one (Loshchilov 2017)."""
    warm = settings.warmup_steps
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    low = settings.final_learning_rate
    return low + (settings.learning_rate - low) * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(weights: Mapping[str, Tensor], settings: PretrainSettings) -> torch.optim.AdamW:
    """AdamW over what asks for gradients; biases and norms do not decay."""
    trained = [value for value in weights.values() if value.requires_grad]
    decaying = [value for value in trained if value.dim() > 1]
    others = [value for value in trained if value.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, settings.beta2),
    )
