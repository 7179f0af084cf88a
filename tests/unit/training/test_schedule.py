"""Learning rates, and what decays."""

from __future__ import annotations

import pytest
import torch

from raypipe.training.schedule import learning_rate, make_optimizer
from tests.pretraining import small


def test_learning_rates() -> None:
    settings = small(learning_rate=1.0, final_learning_rate=0.2, warmup_steps=4)
    rates = [learning_rate(step, 9, settings) for step in range(9)]
    # Linear to the peak; then 0.2 + 0.8 * (1 + cos(pi * k / 4)) / 2.
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.882843, 0.6, 0.317157, 0.2], abs=1e-6)


def test_without_a_warm_up_it_begins_at_the_peak() -> None:
    settings = small(learning_rate=0.5, final_learning_rate=0.5, warmup_steps=0)
    assert {learning_rate(step, 3, settings) for step in range(3)} == {0.5}


def test_a_run_shorter_than_its_warm_up_never_peaks() -> None:
    settings = small(learning_rate=1.0, warmup_steps=10)
    assert learning_rate(4, 5, settings) == 0.5


def test_matrices_decay_and_what_is_frozen_is_left_alone() -> None:
    weights = {
        "matrix": torch.nn.Parameter(torch.ones(2, 2)),
        "bias": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2, 2), requires_grad=False),
    }
    optimizer = make_optimizer(weights, small(weight_decay=0.1))
    decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    assert decay == {id(weights["matrix"]): 0.1, id(weights["bias"]): 0.0}
