"""A run on Ray gives what the same actor gives in one process, and says no more than it should.

It runs where the user's own model.py and index.py lie: `python -m` puts that folder before everything else on the path,
and Ray does the same in its workers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.runs import CONSOLE, MODULE, Run, assert_same_vectors, done, shard_files, write_fasta
from tests.untrained import make_untrained

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")

SETTINGS = ["--shard-tokens", "6000", "--model", "nano/nano"]
TRAP = "raise RuntimeError('the file of the user was imported')\n"
OWN_LINES = [
    r"in\.fa: 400 records, 400 new distinct sequences",
    r"embedding 400 sequences \([\d,]+ tokens\) in \d+ shards; workers: 2",
    r"\d+ of \d+ shards, \d+ %, [\d,]+ tokens/s",
    r"embedded 400 sequences, [\d,]+ tokens \(padding 0\) in [\d.]+ s: [\d,]+ tokens/s",
    r"complete: 400 records and 0 rejects; 400 distinct sequences = 400 embedded \+ 0 failed, in embeddings/nano",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder."""
    folder = tmp_path_factory.mktemp("foreign")
    write_fasta(folder / "in.fa", 400, 20, 200)
    make_untrained(folder / "nano" / "nano", width=256, says_so=False)
    for name in ("model", "index"):
        (folder / f"{name}.py").write_text(TRAP)
    return folder


@pytest.fixture(scope="module")
def ray_run(folder: Path) -> Run:
    """The run that made the atlas `ray`."""
    return done([*MODULE, "embed", "in.fa", "-o", "ray", *SETTINGS, "--workers", "2"], cwd=folder, cpus=2)


def test_two_workers_give_the_same_bits_as_one_process(folder: Path, ray_run: Run) -> None:
    assert ray_run.code == 0, ray_run.err
    # Bound to one CPU, the process in line computes with one thread, as each of two workers on two CPUs does; another
    # number of threads sums in another order (differences up to 6e-8, one step of a small half).
    inline = done([*CONSOLE, "embed", "in.fa", "-o", "inline", *SETTINGS, "--executor", "inline"], cwd=folder, cpus=1)
    assert inline.code == 0, inline.err
    assert len(shard_files(folder / "ray")) > 4
    assert_same_vectors(folder / "ray", folder / "inline")


def test_only_our_own_words(ray_run: Run) -> None:
    assert ray_run.out == ""
    assert [line for line in ray_run.lines if not any(re.fullmatch(own, line) for own in OWN_LINES)] == []


def test_a_finished_atlas_says_so_without_ray(folder: Path, ray_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in shard_files(folder / "ray")}
    again = done([*CONSOLE, "embed", "ray", *SETTINGS, "--address", "127.0.0.1:1"], cwd=folder, seconds=30)
    assert again.code == 0, again.err
    assert "nothing to embed" in again.err
    assert {path: path.stat().st_mtime_ns for path in shard_files(folder / "ray")} == before
