"""Several workers by Ray Train, fed by Ray Data: the losses of one worker, whatever dies on the way."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.cli import DONE, FAILED, INCOMPLETE
from raypipe.errors import RaypipeError
from raypipe.training import ray_workers
from raypipe.training.folder import RunFolder
from raypipe.training.job import Job
from raypipe.training.start import find_start
from raypipe.training.state_files import latest_state, step_of
from tests.integration.conftest import Cli
from tests.pretraining import losses, options, small, write_run_inputs
from tests.runs import CONSOLE, MODULE, done, started

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")

MANY: dict[str, Any] = {"steps": 60, "valid_every": 30, "checkpoint_every": 10, "log_every": 5}


def assert_close(found: Path, expected: Path) -> None:
    for one, other in zip(losses(found), losses(expected), strict=True):
        assert one.pop("valid", {}) == pytest.approx(other.pop("valid", {}), rel=1e-4)
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
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
def test_a_stopped_cluster_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to all: the workers end their step, and the next command goes on behind it."""
    inputs = write_run_inputs(tmp_path)
    many = options(**{**MANY, "steps": 20_000, "checkpoint_every": 10_000, "log_every": 1})
    command = [*CONSOLE, "pretrain", *inputs, *many, "--workers", "2", "-o", "pair"]
    with started(command, cwd=tmp_path) as run:
        run.wait_for(lambda: (file := tmp_path / "pair/metrics.jsonl").exists() and file.stat().st_size > 2000, 240)
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait(60)
        end = time.monotonic() + 30
        while run.processes("RayTrainWorker") and time.monotonic() < end:
            time.sleep(0.2)
        assert not run.processes("RayTrainWorker")
    assert run.code == INCOMPLETE
    found = latest_state(tmp_path / "pair/state")
    assert found is not None
    first = step_of(found)
    assert 0 < first < 10_000
    assert run.lines[-1] == f"raypipe: stopped; run the same command again: it goes on after step {first}"
    assert "stopping after this step, to go on from there; once more stops at once" in run.lines
    assert "Traceback" not in run.err
    # The next command has time for a few steps more, and all that it need be told is where.
    again = done([*CONSOLE, "pretrain", "-o", "pair", "--max-minutes", "0.5"], cwd=tmp_path, seconds=200)
    assert again.code == INCOMPLETE, again.err
    assert f"going on after step {first:,}" in again.err
    assert "stopped when 0.5 min were over; run the same command again: it goes on after step " in again.lines[-1]
    pair = losses(tmp_path / "pair")
    last = pair[-1]["step"]
    assert last > first
    # One worker, which accumulates what the two compute side by side.
    alone: list[dict[str, Any]] = [{"step": 0}]
    begin = [*inputs, *options(**{**MANY, "steps": 20_000, "accumulate": 2, "log_every": 1})]
    while alone[-1]["step"] < min(last, first + 30):
        ran = cli("pretrain", *begin, "-o", tmp_path / "alone", "--max-minutes", "0.1")
        assert ran.code == INCOMPLETE, ran.err
        alone, begin = losses(tmp_path / "alone"), []
    # Later on the roundings of float32 add up.
    compared = [(one, other) for one, other in zip(pair, alone, strict=False) if one["step"] <= first + 30]
    assert compared[-1][0]["step"] > first
    for one, other in compared:
        assert one.pop("valid", {}) == pytest.approx(other.pop("valid", {}), rel=1e-2)
        assert one == pytest.approx(other, rel=1e-2)


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    inputs = write_run_inputs(tmp_path)
    many = options(**{**MANY, "steps": 20_000})
    with started([*CONSOLE, "pretrain", *inputs, *many, "--workers", "2", "-o", "pair"], cwd=tmp_path) as run:
        run.wait_for(lambda: latest_state(tmp_path / "pair/state") is not None, 240)
        for worker in run.processes("RayTrainWorker"):
            os.kill(worker, signal.SIGSTOP)
        for _ in range(2):
            os.kill(run.process.pid, signal.SIGTERM)
            time.sleep(1)
        run.wait(60)
    assert run.code == INCOMPLETE
    assert "stopped; run the same command again: it goes on after step " in run.lines[-1]
    assert "Traceback" not in run.err


def test_a_folder_that_a_node_does_not_have(tmp_path: Path) -> None:
    settings = small(workers=2)
    job = Job(RunFolder(tmp_path / "run"), settings, find_start(settings))
    with pytest.raises(
        RaypipeError, match=r"run: is not there on \S+, where a worker runs; name a folder with -o that e"
    ):
        ray_workers._worker({"job": job, "gpus": 0})


def test_only_a_death_speaks_of_memory() -> None:
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    lost = RuntimeError("Connection closed by peer")
    dead = WorkerHealthCheckFailedError("the poll failed", ActorDiedError())
    assert ray_workers._reason(WorkerGroupError("RuntimeError: closed by peer", {0: lost})) == (
        "RuntimeError: closed by peer"
    )
    assert ray_workers._reason(WorkerGroupError("Error: died", {0: lost, 1: dead})).endswith(ray_workers.DEATH_HINT)


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
