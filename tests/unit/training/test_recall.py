"""What a run that goes on is told: what is given counts if it may, the rest is as it was begun."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import UsageError
from raypipe.settings import IngestSettings
from raypipe.training.recall import Command, check_model, recall, unknown_settings
from raypipe.training.settings import FREE, FREE_BEFORE_A_STATE, OF_ONE_COMMAND, PretrainSettings
from raypipe.training.start import find_start
from tests.headed import make_headed
from tests.pretraining import SMALL, small

ROOT = Path("run")
GIVEN: dict[str, Any] = {**SMALL, "type_column": "kind", "type_weights": {"rRNA": 0.5}}
BEGUN = Command(PretrainSettings(**GIVEN), ["in.csv"], ["a=b.tsv"], IngestSettings(sequence_column="rna"))


def written(command: Command = BEGUN) -> dict[str, Any]:
    """settings.json as the command leaves it."""
    return json.loads(json.dumps(command.resolved(find_start(command.settings))))


def go_on(command: Command | None = None, before: dict[str, Any] | None = None, *, stepped: bool = True) -> Command:
    return recall(command or Command(PretrainSettings()), before or written(), ROOT, stepped=stepped)


@pytest.mark.parametrize("command", [Command(PretrainSettings()), BEGUN], ids=["nothing", "everything"])
def test_what_is_not_given_is_as_it_was(command: Command) -> None:
    whole = go_on(command)
    assert whole == BEGUN
    assert written(whole) == written()


def test_what_is_given_and_free_counts_and_is_kept() -> None:
    whole = go_on(Command(PretrainSettings(log_every=7, max_minutes=3)))
    assert whole.settings == PretrainSettings(**{**GIVEN, "log_every": 7, "max_minutes": 3})
    assert written(whole) == written() | {"log_every": 7}
    # What is of one command only is not kept, and of no other.
    assert go_on(before=written(whole)).settings.max_minutes is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.5}, "--learning-rate 0.01, and now it is 0.5"),
        ({"max_length": 50}, "--max-length not given, and now it is 50"),
        ({"type_column": "kind", "type_weights": {}}, '--type-weights {"rRNA": 0.5}, and now it is {}'),
        # Given, though it is the default.
        ({"precision": "bfloat16"}, '--precision "float32", and now it is "bfloat16"'),
        ({"num_layers": 33}, "--num-layers 1, and now it is 33"),
        ({"batch_tokens": 800}, "--batch-tokens 400, and now it is 800"),
    ],
)
def test_what_is_given_and_changes_the_weights_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        go_on(Command(PretrainSettings(**settings)))
    assert f"run: was begun with {message}; leave it out or give the same again to go on" in str(error.value)


def test_a_batch_that_did_not_fit_may_be_smaller_while_no_state_stands() -> None:
    command = Command(PretrainSettings(batch_tokens=200, accumulate=2))
    assert go_on(command, stepped=False).settings == small(**{**GIVEN, "batch_tokens": 200, "accumulate": 2})
    with pytest.raises(UsageError, match="--learning-rate"):
        go_on(Command(PretrainSettings(learning_rate=0.02)), stepped=False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (replace(BEGUN, inputs=["other.csv"]), 'INPUT ["in.csv"], and now it is ["other.csv"]'),
        (replace(BEGUN, annotations=["a=c.tsv"]), '--annotations ["a=b.tsv"], and now it is ["a=c.tsv"]'),
        (replace(BEGUN, reading=IngestSettings(sequence_column="seq")), '--sequence-column "rna", and now it is "seq"'),
    ],
)
def test_other_inputs_are_refused(command: Command, message: str) -> None:
    with pytest.raises(UsageError) as error:
        go_on(command)
    assert f"was begun with {message}" in str(error.value)


def test_a_run_of_another_version_goes_on() -> None:
    """What it did not know has its default, and compares as that; what is no more is named."""
    before = written() | {"of_old": 1}
    del before["clip"], before["id_column"]
    assert go_on(before=before) == BEGUN
    assert go_on(Command(PretrainSettings(clip=1.0)), before) == BEGUN
    with pytest.raises(UsageError, match=r"--clip 1.0, and now it is 0.5"):
        go_on(Command(PretrainSettings(clip=0.5)), before)
    assert unknown_settings(before) == ["of_old"]
    assert unknown_settings(written()) == []


def test_settings_that_are_no_longer_allowed_are_named() -> None:
    with pytest.raises(UsageError, match=r"run: was begun with settings that do not go on: final_learning_rate 1 is a"):
        go_on(before=written() | {"final_learning_rate": 1.0})


def test_another_checkpoint_is_refused_and_its_shape_need_not_be_said(tmp_path: Path) -> None:
    one, other = make_headed(tmp_path / "one"), make_headed(tmp_path / "other", seed=2)
    before = written(Command(PretrainSettings(model=str(one)), ["in.fa"]))
    assert before["num_layers"] == 1
    whole = go_on(before=before)
    check_model(find_start(whole.settings), before, ROOT)
    assert written(whole) == before
    another = go_on(Command(PretrainSettings(model=str(other))), before)
    with pytest.raises(UsageError, match=r"was begun with --model .*/one\", and now it is .*/other\""):
        check_model(find_start(another.settings), before, ROOT)
    fresh = go_on(Command(PretrainSettings(model=str(one))))
    with pytest.raises(UsageError, match=r"was begun with --model not given, and now it is "):
        check_model(find_start(fresh.settings), written(), ROOT)
    with pytest.raises(UsageError, match=r"was begun with --model .*/one\", whose content has changed since"):
        check_model(find_start(whole.settings), before | {"model_fingerprint": "0" * 64}, ROOT)


def test_the_lists_of_settings_name_settings() -> None:
    assert {*FREE, *FREE_BEFORE_A_STATE, *OF_ONE_COMMAND} <= set(PretrainSettings.model_fields)
