"""A training that is killed goes on to the losses of one that was not, wherever the kill comes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raypipe.cli import DONE, INCOMPLETE, run
from raypipe.training import products, worker
from raypipe.training.curve import draw_curve
from raypipe.training.schedule import make_optimizer
from raypipe.training.state_files import latest_state, states, step_of
from tests.pretraining import PAIRS, losses, options, small, write_run_inputs
from tests.runs import CONSOLE, started

RECIPE = options(**PAIRS, hidden_dropout=0.1, steps=4, log_every=2, checkpoint_every=2)
KILLS = 12
LOADED = (worker, products)


def assert_same_run(folder: Path, expected: Path) -> None:
    """The same losses at every step, and in the end the same weights bit for bit."""
    assert losses(folder) == losses(expected)
    first, second = (load_file(states(each / "state")[-1]) for each in (folder, expected))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert (folder / "checkpoint/model.safetensors").read_bytes() == (
        expected / "checkpoint/model.safetensors"
    ).read_bytes()
    assert not list((folder / ".tmp").iterdir())


def killed(arguments: list[str], commit: int) -> bool:
    """Run in a process that is killed before it puts its file of that number in place, if it comes so far."""
    child = os.fork()
    if child == 0:
        left = [commit]
        replace = os.replace

        def deadly(*names: Path) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)

        os.replace = deadly  # type: ignore[assignment]
        torch.set_num_threads(1)
        os._exit(run(arguments))
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == DONE
    return os.WIFSIGNALED(status)


@pytest.mark.usefixtures("one_cpu")
def test_killed_at_one_commit_after_another(tmp_path: Path) -> None:
    """Settings, corpus, states, metrics that are cut, curve, checkpoint: each is once the one that is not there."""
    # Loaded once, before the forks: a run itself takes a fraction of what its imports do.
    make_optimizer({"weight": torch.nn.Parameter(torch.ones(2, 2))}, small())
    draw_curve(tmp_path / "warm.png", [{"step": 1, "mlm_loss": 1.0}], "warm")
    fasta, *annotations = write_run_inputs(tmp_path)
    atlas = str(tmp_path / "atlas")
    assert run(["ingest", fasta, "-o", atlas]) == DONE
    assert run(["annotate", atlas, annotations[1]]) == DONE
    expected = ["pretrain", atlas, *RECIPE, "-o", str(tmp_path / "whole")]
    assert not killed(expected, 10_000)
    command = [*expected[:-1], str(tmp_path / "run")]
    kills, commit = 0, 1
    standing: set[Path] = set()
    while killed(command, commit):
        kills += 1
        found = {path for path in (tmp_path / "run").rglob("*") if ".tmp" not in path.parts and path.name != ".lock"}
        # What is new is not written again, so that the file that comes after it has the number that it had.
        commit += -1 if found - standing and kills > 2 else 1
        standing |= found
    assert kills >= KILLS
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.slow
def test_stopped_in_the_middle(tmp_path: Path) -> None:
    """First asked to stop, which ends the step at hand and keeps its state; then killed, at some moment in a step."""
    inputs = write_run_inputs(tmp_path)
    command = ["pretrain", *inputs, *options(**PAIRS, steps=80, log_every=4, valid_every=30, checkpoint_every=7), "-o"]
    assert not killed([*command, str(tmp_path / "whole")], 10_000)
    for sign, step in ((signal.SIGTERM, 14), (signal.SIGKILL, 42)):
        with started([*CONSOLE, *command, "run"], cwd=tmp_path) as ran:
            ran.wait_for(lambda step=step: latest(tmp_path / "run") >= step)
            os.kill(ran.process.pid, sign)
            ran.wait()
        if sign != signal.SIGKILL:
            assert ran.code == INCOMPLETE
            assert "stopping after this step, to go on from there; once more stops at once" in ran.lines
            done = latest(tmp_path / "run")
            assert ran.lines[-1] == f"raypipe: stopped; run the same command again: it goes on after step {done}"
            # Nothing was computed in vain: no line is of a later step than the state.
            assert max(line["step"] for line in losses(tmp_path / "run")) <= done
        assert not (tmp_path / "run/checkpoint").exists()
    assert "going on after step " in ran.err
    assert not killed([*command, str(tmp_path / "run")], 10_000)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def latest(folder: Path) -> int:
    found = latest_state(folder / "state")
    return step_of(found) if found else 0
