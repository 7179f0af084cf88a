"""The loop in this process: the same losses however it is cut up, and an end to losses of no use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.alphabet import Alphabet
from raypipe.errors import RaypipeError
from raypipe.training.batches import Packed
from raypipe.training.corpus import Corpus
from raypipe.training.hardware import all_hardware
from raypipe.training.loop import Trainer
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import Start, build, find_start
from raypipe.training.state_files import states, step_of
from tests.pretraining import CONTEXT, PAIRS, family_corpus, make_corpus_of, small, step_maker

START = Start(replace(find_start(small()).config, max_positions=CONTEXT + 2), Alphabet())


def trainer(folder: Path, settings: PretrainSettings, corpus: Corpus | None = None) -> Trainer:
    corpus = corpus or family_corpus()
    return Trainer(folder, build(START, settings), START.alphabet, step_maker(corpus, settings), settings)


def run(folder: Path, settings: PretrainSettings, until: int | None = None) -> list[dict[str, Any]]:
    """Train in a new process, as it were; the lines of metrics without times."""
    made = trainer(folder, settings)
    made.resume()
    lines: list[dict[str, Any]] = []
    made.run(lines.append, until)
    return without_times(lines)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


RECIPES = {
    "masked": small(log_every=2),
    "both": small(**PAIRS, log_every=4, hidden_dropout=0.1, attention_dropout=0.1),
    "accumulated": small(**PAIRS, accumulate=2, log_every=3, precision="bfloat16"),
    "contrastive": small(**PAIRS, mlm_weight=0.0),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_anywhere_it_gives_the_same_losses(tmp_path: Path, recipe: str) -> None:
    """Also between two lines of metrics, whose sums are kept with the state."""
    settings = RECIPES[recipe]
    whole = run(tmp_path / "whole", settings)
    parts = [line for until in (1, 3, 4, None) for line in run(tmp_path / "parts", settings, until)]
    assert parts == whole
    assert [line["step"] for line in whole if "valid" in line] == [3, 6]
    assert [step_of(path) for path in states(tmp_path / "whole/state")] == [4, 6]
    first, second = trainer(tmp_path / "whole", settings), trainer(tmp_path / "parts", settings)
    for made in (first, second):
        assert made.resume()
    assert first.tokens == second.tokens > 0
    weights = [dict(made._learner.named_parameters()) for made in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_who_wants_an_end_gets_the_state_of_that_step(tmp_path: Path) -> None:
    settings = RECIPES["both"]
    whole = run(tmp_path / "whole", settings)
    parts: list[dict[str, Any]] = []
    for done in range(1, 7):
        made = trainer(tmp_path / "parts", settings)
        made.resume()
        # At once, and yet every slice gets a step further.
        made.run(parts.append, stop=lambda: True)
        assert step_of(states(tmp_path / "parts/state")[-1]) == done
    assert without_times(parts) == whole


def test_waiting_counts_as_time(tmp_path: Path) -> None:
    """Tokens per second and the time left are those of the clock on the wall."""
    settings = small(steps=4, valid_every=100)
    maker = step_maker(family_corpus(), settings)

    def slow(step: int) -> Iterator[list[Packed]]:
        for number in range(step, settings.steps or 0):
            time.sleep(0.2)
            yield maker.make(number)

    begin = build(START, settings)
    made = Trainer(tmp_path, begin, START.alphabet, maker, settings, feed=slow)
    lines: list[dict[str, Any]] = []
    made.run(lines.append)
    for line in lines[:4]:
        assert line["data_seconds"] >= 0.2
        assert line["seconds_per_step"] >= 0.2
        assert line["tokens_per_second"] <= 400 / 0.2
        assert line["seconds_left"] >= (4 - line["step"]) * 0.19
    assert round(made.seconds, 1) >= lines[3]["seconds"] >= 0.8


def test_all_hardware_of_a_run_is_kept(tmp_path: Path) -> None:
    settings = small()
    for number, where in enumerate(("one", "one", "other"), 1):
        corpus = family_corpus()
        made = Trainer(
            tmp_path,
            build(START, settings),
            START.alphabet,
            step_maker(corpus, settings),
            settings,
            hardware=where,
        )
        made.resume()
        made.run(lambda _: None, until=number)
    found = trainer(tmp_path, settings).resume()
    assert found is not None
    assert all_hardware(found) == ["one", "other"]
    assert all_hardware({"hardware": "of an older version"}) == ["of an older version"]


def test_it_learns(tmp_path: Path) -> None:
    """Sequences of one letter each, so that a masked one follows from its neighbours."""
    corpus = make_corpus_of([24] * 8)
    corpus.ids[:] = np.repeat(np.resize(Alphabet().nucleotides, 8), 24)
    settings = small(steps=60, learning_rate=0.02, log_every=20, valid_every=1000, checkpoint_every=1000)
    lines: list[dict[str, Any]] = []
    trainer(tmp_path, settings, corpus).run(lines.append)
    assert lines[0]["masked_accuracy"] < 0.9
    assert lines[-2]["masked_accuracy"] > 0.95
    assert lines[-2]["mlm_loss"] < 0.3 < lines[0]["mlm_loss"]


def test_accumulated_passes_count_as_one_of_their_size(tmp_path: Path) -> None:
    """Every asked token weighs the same: unequal passes give the gradient of one pass over all of them."""
    corpus = make_corpus_of([50, 50, 50, 12])
    everything = {"mask_rate": 1.0, "mask_share": 1.0, "random_share": 0.0, "steps": 1}
    lines: list[list[dict[str, Any]]] = [[], []]
    for found, accumulate, tokens in zip(lines, (1, 2), (400, 160), strict=True):
        settings = small(batch_tokens=tokens, accumulate=accumulate, **everything)
        made = trainer(tmp_path / str(accumulate), settings, corpus)
        sizes = [len(batch.ids) for batch in made._maker.make(0)]
        assert sorted(sizes) == [[170], [14, 156]][accumulate - 1]
        made.run(found.append)
    assert lines[0][0]["grad_norm"] == pytest.approx(lines[1][0]["grad_norm"], rel=1e-4)
    assert lines[0][0]["mlm_loss"] == pytest.approx(lines[1][0]["mlm_loss"], rel=1e-5)


def test_a_loss_that_is_nan_stops_the_run_and_names_its_sequences(tmp_path: Path) -> None:
    settings = small(steps=4, checkpoint_every=2, batch_tokens=120, valid_every=100)
    made = trainer(tmp_path, settings, make_corpus_of([40] * 12))
    made.run(lambda _: None, until=2)
    with torch.no_grad():
        next(iter(made._weights.values())).fill_(float("nan"))
    expected = sorted(step_maker(make_corpus_of([40] * 12), settings).make(2)[0].rows.tolist())
    named = ", ".join(map(str, expected))
    with pytest.raises(
        RaypipeError,
        match=rf"the loss is nan at step 3, in the batch of the sequences with seq_id {named}"
        "; the last state is of step 2; begin again in another folder with a lower --learning-rate",
    ):
        made.run(lambda _: None)
    assert [step_of(path) for path in states(tmp_path / "state")] == [2]


def test_gradients_that_are_infinite_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path, small())
    weight = next(iter(made._weights.values()))
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        RaypipeError, match=r"the norm of the gradients is (inf|nan) at step 1, .*; the last state is of st"
    ):
        made.run(lambda _: None)


def test_a_batch_with_nothing_to_ask_for_does_no_harm(tmp_path: Path) -> None:
    """Sequences of N alone: nothing is masked, so there is nothing to learn."""
    corpus = make_corpus_of([30] * 4)
    corpus.ids[:] = Alphabet().id["N"]
    lines: list[dict[str, Any]] = []
    trainer(tmp_path, small(steps=2), corpus).run(lines.append)
    assert lines[0]["grad_norm"] == 0
    assert "mlm_loss" not in lines[0]
