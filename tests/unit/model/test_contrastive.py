"""The contrastive loss against its formula, written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.contrastive import contrastive_loss, nearest_share, normalised, pool_mean, relation_loss
from model.packing import Layout


def by_hand(vectors: Tensor, positive: Tensor, neutral: Tensor, temperature: float) -> float:
    """The loss view by view, pair by pair."""
    total = views = 0
    for i in range(len(vectors)):
        wanted = [p for p in range(len(vectors)) if p != i and positive[i, p]]
        against = [a for a in range(len(vectors)) if a != i and (positive[i, a] or not neutral[i, a])]
        if not wanted:
            continue
        score = {a: math.exp(float(vectors[i] @ vectors[a]) / temperature) for a in against}
        total -= sum(math.log(score[p] / sum(score.values())) for p in wanted) / len(wanted)
        views += 1
    return total / max(views, 1)


def random_vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalised(torch.randn(count, 6, dtype=torch.float64, generator=generator), center=True)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_its_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = random_vectors(9, seed)
    family = torch.randint(0, 4, (9,), generator=generator)
    positive = family[:, None] == family
    neutral = torch.rand(9, 9, generator=generator) < 0.3
    found = contrastive_loss(vectors, positive, neutral, 0.2)
    assert float(found) == pytest.approx(by_hand(vectors, positive, neutral, 0.2), rel=1e-12)


def test_two_levels_of_relation() -> None:
    """Families pull, pairs of one clan pull by their own weight, and neither pushes the other's pairs."""
    vectors = random_vectors(8)
    family = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    same = family[:, None] == family
    related = (group[:, None] == group) & ~same
    expected = by_hand(vectors, same, related, 0.1) + 0.5 * by_hand(vectors, related, same, 0.1)
    assert float(relation_loss(vectors, family, group, temperature=0.1, group_weight=0.5)) == pytest.approx(expected)
    alone = relation_loss(vectors, family, group, temperature=0.1, group_weight=0)
    assert float(alone) == pytest.approx(by_hand(vectors, same, related, 0.1))


def test_gradients() -> None:
    family = torch.tensor([0, 0, 1, 1, 2, 3])
    group = torch.tensor([0, 0, 0, 0, 1, 2])

    def loss(x: Tensor) -> Tensor:
        return relation_loss(normalised(x, center=True), family, group, temperature=0.3, group_weight=0.5)

    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(loss, x)


@pytest.mark.parametrize("family", [[0, 1, 2], [0, 0, 0]])
def test_nothing_to_tell_apart_costs_nothing(family: list[int]) -> None:
    """No pairs at all, or no other than pairs: no loss, and gradients of 0 rather than NaN."""
    vectors = torch.eye(3, requires_grad=True)
    families = torch.tensor(family)
    same = families[:, None] == families
    loss = contrastive_loss(vectors, ~same if len(set(family)) == 1 else same, same, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_pooling_leaves_special_tokens_out() -> None:
    layout = Layout.of([5, 3, 3])
    hidden = torch.arange(22, dtype=torch.float32).reshape(11, 2).bfloat16().requires_grad_()
    expected = torch.stack([hidden[1:4].mean(0), hidden[6], hidden[9]]).float()
    found = pool_mean(hidden, layout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert hidden.grad is not None
    third = 1 / 3
    wanted = torch.tensor([0, third, third, third, 0, 0, 1, 0, 0, 1, 0]).bfloat16()
    torch.testing.assert_close(hidden.grad, wanted[:, None].expand(-1, 2))


def test_a_sequence_without_nucleotides_is_zero() -> None:
    assert not pool_mean(torch.ones(2, 3), Layout.of([2])).any()


def test_nearest_share() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
    family = torch.tensor([0, 0, 1, 1])
    # The third's nearest is the fourth, whose own nearest is of the other family.
    assert float(nearest_share(vectors, family)) == pytest.approx(3 / 4)
    assert float(nearest_share(vectors, torch.tensor([0, 0, 1, 2]))) == 1
    assert float(nearest_share(vectors, torch.arange(4))) == 0
