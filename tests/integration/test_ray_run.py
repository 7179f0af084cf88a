"""A run on Ray gives what the same actor gives in one process, and says no more than it should."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.runs import CONSOLE, assert_same_vectors, done, shard_files, write_fasta

SETTINGS = ["--shard-tokens", "6000", "--model", "nano"]
OWN_LINES = [
    r"warning: nano is untrained .*",
    r"in\.fa: 400 records, 400 new distinct sequences",
    r"embedding 400 sequences \([\d,]+ tokens\) in \d+ shards; workers: 2",
    r"\d+ of \d+ shards, \d+ %, [\d,]+ tokens/s",
    r"embedded 400 sequences, [\d,]+ tokens \(padding 0\) in [\d.]+ s: [\d,]+ tokens/s",
    r"complete: 400 records and 0 rejects; 400 distinct sequences = 400 embedded \+ 0 failed, in embeddings/nano",
]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs")
def test_two_workers_give_the_same_bits_as_one_process(tmp_path: Path) -> None:
    write_fasta(tmp_path / "in.fa", 400, 20, 200)
    # Bound to one CPU, the process in line computes with one thread, as each of two workers on two CPUs does; another
    # number of threads sums in another order (differences up to 6e-8, one step of a small half).
    inline = done([*CONSOLE, "embed", "in.fa", "-o", "inline", *SETTINGS, "--executor", "inline"], cwd=tmp_path, cpus=1)
    assert inline.code == 0, inline.err
    ray = done([*CONSOLE, "embed", "in.fa", "-o", "ray", *SETTINGS, "--workers", "2"], cwd=tmp_path, cpus=2)
    assert ray.code == 0, ray.err
    assert len(shard_files(tmp_path / "ray")) > 4
    assert_same_vectors(tmp_path / "ray", tmp_path / "inline")

    assert ray.out == ""
    foreign = [line for line in ray.lines if not any(re.fullmatch(pattern, line) for pattern in OWN_LINES)]
    assert foreign == []

    # A finished atlas says so without a Ray.
    before = {path: path.stat().st_mtime_ns for path in shard_files(tmp_path / "ray")}
    again = done([*CONSOLE, "embed", "ray", *SETTINGS, "--address", "127.0.0.1:1"], cwd=tmp_path, seconds=30)
    assert again.code == 0, again.err
    assert "nothing to embed" in again.err
    assert {path: path.stat().st_mtime_ns for path in shard_files(tmp_path / "ray")} == before
