"""Contrastive learning of sequence vectors: related sequences near each other, all others apart.

The loss is the supervised contrastive one of Khosla et al. 2020 (arXiv:2004.11362, equation 2), which for a single
positive is InfoNCE (van den Oord et al. 2018). Relations have two levels, as Rfam has: a family, and a clan of
families. A pair on the other level is neither pulled nor pushed.

Legend: V views (vectors of one batch), D hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import Layout


def pool_mean(hidden: Tensor, layout: Layout) -> Tensor:
    """Mean over the nucleotides of every segment, special tokens left out; differentiable.

    Args:
        hidden: (T, D).
        layout: V segments.

    Returns:
        (V, D) float32.
    """
    lengths = torch.tensor(layout.lengths, device=hidden.device)
    ends = lengths.cumsum(0)
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    inside = torch.ones(len(hidden), 1, device=hidden.device)
    inside[ends - 1] = 0
    inside[ends - lengths] = 0
    sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device)
    sums = sums.index_add(0, segment, hidden.float() * inside)
    return sums / (lengths - 2).clamp(min=1)[:, None]


def normalised(vectors: Tensor, *, center: bool) -> Tensor:
    """Vectors of length 1, after their mean was subtracted if `center`: the directions that an index compares."""
    return F.normalize(vectors - vectors.mean(0) if center else vectors, dim=-1)


def contrastive_loss(vectors: Tensor, positive: Tensor, neutral: Tensor, temperature: float) -> Tensor:
    """Mean over the views that have a positive of -mean over its positives p of log(exp(s_p / t) / sum_a exp(s_a / t)).

    Args:
        vectors: (V, D) of length 1; s is their dot product.
        positive: (V, V) bool, pairs to be pulled together. The diagonal does not count.
        neutral: (V, V) bool, pairs that are left out of the sum.
        temperature: t.

    Returns:
        A scalar; 0 where no view has a positive.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    positive = positive & ~itself
    scores = vectors @ vectors.T
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    # Not minus infinity: a view that nothing is left for would give NaN gradients, although it does not count.
    scores = scores.masked_fill(itself | (neutral & ~positive), torch.finfo(scores.dtype).min)
    chances = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    count = positive.sum(1)
    pulled = chances.masked_fill(~positive, 0).sum(1) / count.clamp(min=1)
    return -pulled.sum() / (count > 0).sum().clamp(min=1)


def relation_loss(vectors: Tensor, family: Tensor, group: Tensor, *, temperature: float, group_weight: float) -> Tensor:
    """Loss of the families, plus `group_weight` times that of the groups (clans) of families.

    Args:
        vectors: (V, D) of length 1.
        family: (V,) whose views are one kind.
        group: (V,) whose families are related; never splits a family.
        temperature: of both.
        group_weight: 0 leaves related families alone.
    """
    same_family = family[:, None] == family
    related = (group[:, None] == group) & ~same_family
    loss = contrastive_loss(vectors, same_family, related, temperature)
    if group_weight:
        loss = loss + group_weight * contrastive_loss(vectors, related, same_family, temperature)
    return loss


def nearest_share(vectors: Tensor, family: Tensor) -> Tensor:
    """Share of the views, of those that have a partner in the batch, whose nearest other view is of their family.

    Args:
        vectors: (V, D) of length 1.
        family: (V,) whose views are one kind.

    Returns:
        A float32 scalar; 0 where no view has a partner.
    """
    scores = vectors @ vectors.T
    scores.fill_diagonal_(-torch.inf)
    partners = (family[:, None] == family).sum(1) > 1
    found = (family[scores.argmax(1)] == family) & partners
    return found.sum().float() / partners.sum().clamp(min=1)
