"""Several workers by Ray Train, fed by Ray Data: the losses of one worker, whatever dies on the way."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli import DONE, FAILED
from raypipe.training.state_files import latest_state
from tests.integration.conftest import Cli
from tests.pretraining import losses, options, write_run_inputs
from tests.runs import CONSOLE, MODULE, done, started

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")

MANY: dict[str, Any] = {"steps": 60, "valid_every": 30, "checkpoint_every": 10, "log_every": 5}


def assert_close(found: Path, expected: Path) -> None:
    for one, other in zip(losses(found), losses(expected), strict=True):
        assert one.pop("valid", {}) == pytest.approx(other.pop("valid", {}), rel=1e-4)
        assert one == pytest.approx(other, rel=1e-4)


def test_two_workers_fed_by_ray_data(cli: Cli, tmp_path: Path) -> None:
    inputs = write_run_inputs(tmp_path)
    ran = cli("pretrain", *inputs, *options(accumulate=2), "-o", tmp_path / "alone")
    assert ran.code == DONE, ran.err
    # From a folder with the user's own model.py and index.py, which Ray puts first on its workers' path.
    for name in ("model", "index"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the file of the user was imported')\n")
    pair = done([*MODULE, "pretrain", *inputs, *options(), "--workers", "2", "-o", "pair"], cwd=tmp_path, seconds=280)
    assert pair.code == DONE, pair.err
    assert_close(tmp_path / "pair", tmp_path / "alone")
    # What the workers wrote to the file was told here, line by line, and nothing else.
    patterns = [
        r"\S*in.fa: 112 records, 110 new distinct sequences",
        "families: 112 of 112 rows belong to a sequence",
        "laying out the corpus",
        r"training [\d,]+ weights on \d+ sequences \(validating on \d+, 0 left out\), 6 steps",
        *(r"step \d of 6, epoch [\d.]+: masked-LM loss [\d.]+, accuracy [\d.]+; .*" for _ in range(3)),
        "step 3, validation: masked-LM loss .*",
        *(r"step \d of 6, epoch [\d.]+: masked-LM loss [\d.]+, accuracy [\d.]+; .*" for _ in range(3)),
        "step 6, validation: masked-LM loss .*",
        r"finished: \S+/pair/checkpoint; use it with --model \S+/pair/checkpoint",
    ]
    assert len(pair.lines) == len(patterns), pair.err
    for line, pattern in zip(pair.lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert pair.out == ""
    card = (tmp_path / "pair/README.md").read_text()
    assert "2 workers of" in card
    assert not list((tmp_path / "pair/.tmp").iterdir())


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_from_the_last_state(cli: Cli, tmp_path: Path) -> None:
    inputs = write_run_inputs(tmp_path)
    ran = cli("pretrain", *inputs, *options(**MANY, accumulate=2), "-o", tmp_path / "alone")
    assert ran.code == DONE, ran.err
    command = [*CONSOLE, "pretrain", *inputs, *options(**MANY), "--workers", "2", "--shard-weights", "-o", "pair"]
    with started(command, cwd=tmp_path) as run:
        run.wait_for(lambda: latest_state(tmp_path / "pair/state") is not None, 240)
        os.kill(min(run.processes("RayTrainWorker")), signal.SIGKILL)
        run.wait(280)
    assert run.code == DONE, run.err
    assert_close(tmp_path / "pair", tmp_path / "alone")
    told = [line for line in run.lines if line.startswith("step ")]
    assert len(told) == len(set(told)) == len(losses(tmp_path / "alone"))


@pytest.mark.slow
def test_a_stopped_cluster_run_goes_on(tmp_path: Path) -> None:
    """SIGTERM at the driver: the workers go with it, and the next run goes on from the last state."""
    inputs = write_run_inputs(tmp_path)
    command = [*CONSOLE, "pretrain", *inputs, *options(**{**MANY, "steps": 20_000}), "--workers", "2", "-o", "pair"]
    with started(command, cwd=tmp_path) as run:
        run.wait_for(lambda: latest_state(tmp_path / "pair/state") is not None, 240)
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait(60)
        end = time.monotonic() + 30
        while run.processes("RayTrainWorker") and time.monotonic() < end:
            time.sleep(0.2)
        assert not run.processes("RayTrainWorker")
    assert run.code == 3
    assert "stopped; run the same command again: it goes on after step " in run.lines[-1]
    assert "Traceback" not in run.err


@pytest.mark.slow
def test_an_error_of_a_worker_is_told_as_it_is(cli: Cli, tmp_path: Path) -> None:
    inputs = write_run_inputs(tmp_path)
    ran = cli("pretrain", *inputs, *options(learning_rate=1e30), "--workers", "2", "-o", tmp_path / "run")
    assert ran.code == FAILED
    assert "at step 2, in the batch of the sequences with seq_id" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_more_workers_than_the_cluster_has(cli: Cli, tmp_path: Path) -> None:
    inputs = write_run_inputs(tmp_path)
    ran = cli("pretrain", *inputs, *options(), "--workers", "512", "-o", tmp_path / "run")
    assert ran.code == FAILED
    assert "--workers 512: the cluster has" in ran.err
