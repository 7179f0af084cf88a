"""On a CUDA device: steps by autocast and flash attention, with validation, a state and both objectives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raypipe.training.loop import Trainer
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import build, find_start
from tests.pretraining import CONTEXT, PAIRS, family_corpus, small, step_maker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SETTINGS = small(**PAIRS, precision="bfloat16", hidden_size=32, learning_rate=1e-3, accumulate=2)


def lines(folder: Path, device: str, settings: PretrainSettings = SETTINGS, until: int | None = None) -> list[Any]:
    """Metrics of a training, or of its next part, without times."""
    start = find_start(settings)
    start = replace(start, config=replace(start.config, max_positions=CONTEXT + 2))
    encoder = build(start, settings).to(device)
    trainer = Trainer(folder, encoder, start.alphabet, step_maker(family_corpus(), settings), settings)
    trainer.resume()
    found: list[dict[str, Any]] = []
    trainer.run(found.append, until)
    return [{name: value for name, value in line.items() if "second" not in name} for line in found]


def assert_close(found: list[Any], expected: list[Any], within: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.pop("valid", {}) == pytest.approx(other.pop("valid", {}), rel=within, abs=within)
        assert one == pytest.approx(other, rel=within, abs=within)


def test_it_trains_as_on_the_cpu(tmp_path: Path) -> None:
    assert_close(lines(tmp_path / "cuda", "cuda"), lines(tmp_path / "cpu", "cpu"), 0.05)


def test_stopped_it_goes_on_to_the_same_losses_within_rounding(tmp_path: Path) -> None:
    parts = lines(tmp_path / "parts", "cuda", until=3) + lines(tmp_path / "parts", "cuda")
    assert_close(parts, lines(tmp_path / "whole", "cuda"), 0.01)


def test_activations_that_are_computed_again_change_nothing(tmp_path: Path) -> None:
    again = SETTINGS.model_copy(update={"checkpoint_activations": True})
    assert_close(lines(tmp_path / "again", "cuda", again), lines(tmp_path / "kept", "cuda"), 0.01)
