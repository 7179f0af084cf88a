"""A sequence that kills its worker, stops it, or does not fit the memory costs itself, not its shard, nor the run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from index.store import Store
from raypipe.plan import read_plan
from tests.faults.conftest import Head
from tests.runs import CONSOLE, Run, done, shard_files, vectors, write_fasta

AFFLICTED = [sys.executable, str(Path(__file__).with_name("afflicted.py"))]
KILLER = "A" * 16
SHARDS = ["--shard-tokens", "800"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, light: Path) -> Path:
    """An atlas of a model that nothing harms: 40 sequences in shards of some 5, one of them with a mark."""
    folder = tmp_path_factory.mktemp("healthy")
    lines = write_fasta(folder / "in.fa", 40, 100, 200).read_text().splitlines()
    fourth = sorted(range(1, len(lines), 2), key=lambda place: len(lines[place]))[3]
    lines[fourth] = KILLER + lines[fourth][len(KILLER) :]
    (folder / "in.fa").write_text("\n".join(lines) + "\n")
    command = [*CONSOLE, "embed", "in.fa", "-o", "atlas", *SHARDS, "--executor", "inline"]
    run = done(command, cwd=folder, cpus=1, RAYPIPE_EMBED_MODEL=str(light))
    assert run.code == 0, run.err
    return folder / "atlas"


def reasons(atlas: Path) -> dict[str, str]:
    """Why sequences were rejected, by sequence."""
    table = ds.dataset(Store.open(atlas).parts("sequences")).to_table(columns=["seq_id", "sequence"])
    sequences = dict(zip(table["seq_id"].to_pylist(), table["sequence"].to_pylist(), strict=True))
    rows = [row for path in (atlas / "rejects").glob("part-embed-*") for row in pq.read_table(path).to_pylist()]
    return {sequences[row["seq_id"]]: row["reason"] for row in rows}


def assert_others_same(atlas: Path, expected: Path, failed: int) -> None:
    """Every sequence that was not rejected is there once, with its vector; other batches, so to rounding."""
    ids, values = vectors(atlas)
    wanted_ids, wanted = vectors(expected)
    assert len(ids) == len(set(ids.tolist())) == len(wanted_ids) - failed
    np.testing.assert_allclose(values, wanted[ids], rtol=0, atol=2e-3)
    assert not (atlas / ".attempts").exists()


def embed(command: list[str], healthy: Path, *options: str) -> list[str]:
    return [*command, "embed", str(healthy.with_name("in.fa")), "-o", "atlas", *SHARDS, *options]


def line_of(run: Run, begin: str) -> str:
    """The one line of progress that begins so."""
    (line,) = [line for line in run.lines if line.startswith(begin)]
    return line


@pytest.mark.slow
def test_one_kills_one_hangs_one_cannot_be_read(tmp_path: Path, healthy: Path, head: Head) -> None:
    """All in one run: each is dealt with in its own way, and all other shards are made."""
    options = ["--workers", "2", "--address", head.address, "--stall-minutes", "0.4"]
    shards = read_plan(Store.open(healthy), Store.open(healthy).embedding())
    last = len(shards) - 1
    harm = {"KILLER": KILLER, "HANGS": str(tmp_path / "hung"), "LOST": str(tmp_path / "lost"), "DEADLY": str(last)}
    run = done(embed(AFFLICTED, healthy, *options), cwd=tmp_path, cpus=None, seconds=280, **harm)
    assert run.code == 3, run.err
    ((sequence, reason),) = reasons(tmp_path / "atlas").items()
    assert KILLER in sequence
    assert reason.startswith("killed every worker that computed it, also alone")
    assert "workers died over it; 1 sequence given up as the cause, see rejects" in line_of(run, "shard 0: ")
    (hung,) = [line for line in run.lines if "stood still" in line]
    assert "died over it, 1 of them replaced because they stood still" in hung
    # A process whose GPU is lost leaves its shard to another one: that is no error of the shard.
    assert (tmp_path / "lost").exists()
    assert "AcceleratorError" not in run.err
    assert f"1 of {len(shards)} shards unfinished: {last} (seq_id " in run.lines[-1]
    assert f"first error: every worker died that took shard {last} (seq_id " in run.lines[-1]
    assert "try fewer --workers or a smaller --max-tokens); run the same command again to go on" in run.lines[-1]
    assert run.out == ""
    again = done([*CONSOLE, "embed", "atlas", *SHARDS, "--executor", "inline"], cwd=tmp_path, cpus=1)
    assert again.code == 0, again.err
    assert f"in 1 shards, {last} finished before" in again.err
    assert_others_same(tmp_path / "atlas", healthy, failed=1)
    # The shards that were not divided are the same to the bit, whoever died over them.
    for part, expected in list(zip(shard_files(tmp_path / "atlas"), shard_files(healthy), strict=True))[1:]:
        assert pq.read_table(part).equals(pq.read_table(expected))


def test_too_little_memory(tmp_path: Path, healthy: Path) -> None:
    """Batches become smaller until they fit; a sequence that does not fit alone is rejected."""
    last = len(shard_files(healthy)) - 1
    lengths = sorted(len(line) for line in healthy.with_name("in.fa").read_text().splitlines()[1::2])
    most = lengths[-3] + 2
    command = embed(AFFLICTED, healthy, "--executor", "inline")
    run = done(command, cwd=tmp_path, cpus=1, MEMORY=str(most))
    assert run.code == 0, run.err
    found = reasons(tmp_path / "atlas")
    assert len(found) == sum(length > most - 2 for length in lengths) in (1, 2)
    for sequence, reason in found.items():
        assert len(sequence) + 2 > most
        assert reason == "does not fit the memory of cpu, even alone (CUDA out of memory)"
    assert re.fullmatch(r"shard \d+: too little memory, batches of \d+ tokens instead", line_of(run, f"shard {last}: "))
    assert_others_same(tmp_path / "atlas", healthy, failed=len(found))
