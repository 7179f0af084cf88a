"""One pass makes several sets, and a kill may come between any two files: every sequence is in every set, once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from index import files
from raypipe.cli import DONE, run
from tests.faults.conftest import Head
from tests.headed import HEADS, add_heads, make_headed
from tests.runs import CONSOLE, RAY_WORKER, done, started, write_fasta
from tests.untrained import make_untrained

THREE = "structure,rna_type,reactivity"
FOLDERS = [f"predictions/{name}" for name in THREE.split(",")]


def parts(atlas: Path, folder: str) -> list[Path]:
    return sorted((atlas / folder).glob("part-*.parquet"))


def assert_same(atlas: Path, expected: Path, folders: list[str]) -> None:
    """The same files with the same rows, bit for bit, every sequence once; the same rejects."""
    for folder in folders:
        ids: list[int] = []
        assert [path.name for path in parts(atlas, folder)] == [path.name for path in parts(expected, folder)]
        for path, wanted in zip(parts(atlas, folder), parts(expected, folder), strict=True):
            table = pq.read_table(path)
            assert table.equals(pq.read_table(wanted), check_metadata=True)
            ids += table["seq_id"].to_pylist()
        for path in (atlas / "rejects").glob(f"part-*-{folder.split('/')[1]}-*"):
            assert pq.read_table(path).equals(pq.read_table(expected / "rejects" / path.name))
            ids += pq.read_table(path)["seq_id"].to_pylist()
        count = sum(pq.read_metadata(path).num_rows for path in (atlas / "sequences").glob("*"))
        assert sorted(ids) == list(range(count))
    assert not list(atlas.glob(".tmp/*"))


def killed(arguments: list[str], commit: int) -> bool:
    """Run in a process that is killed at its commit of that number, if it comes so far; whether it was."""
    child = os.fork()
    if child == 0:
        left = [commit]
        replace = os.replace

        def deadly(*names: Path) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)

        files.os.replace = deadly  # type: ignore[assignment]
        os._exit(run(arguments))
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == DONE
    return os.WIFSIGNALED(status)


@pytest.mark.usefixtures("one_cpu")
def test_killed_at_one_commit_after_another(tmp_path: Path) -> None:
    """Manifest, plans, rejects, and files of all sets: each has its turn to be the one that is not there."""
    headed = make_headed(tmp_path / "headed")
    fasta = write_fasta(tmp_path / "in.fa", 16, 12, 30)
    with fasta.open("a") as file:
        file.write(f">long\n{'ACGU' * 300}\n")
    for name in ("whole", "atlas"):
        assert run(["ingest", str(fasta), "-o", str(tmp_path / name)]) == DONE
    options = ["--heads", THREE, "--model", str(headed), "--on-long", "reject", "--shard-tokens", "90", "--per-token"]
    command = ["embed", str(tmp_path / "atlas"), *options, "--executor", "inline"]
    assert run(["embed", str(tmp_path / "whole"), *command[2:]]) == DONE
    folders = ["embeddings/headed", "tokens/headed", *FOLDERS]
    kills = standing = 0
    commit = 1
    while killed(command, commit):
        before, standing = standing, sum(len(parts(tmp_path / "atlas", folder)) for folder in folders)
        # What comes before the first file of a set is done again by every run, and the file that was lost is the next.
        commit = 2 if standing > before else commit + 1
        kills += 1
    assert kills > standing > 20
    assert_same(tmp_path / "atlas", tmp_path / "whole", folders)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas that no one disturbed; in.fa and the checkpoint `headed` lie beside it."""
    folder = tmp_path_factory.mktemp("predicted")
    make_untrained(folder / "headed", width=256, says_so=False)
    add_heads(folder / "headed", {name: HEADS[name] for name in THREE.split(",")})
    write_fasta(folder / "in.fa", 100, 30, 50)
    assert done([*CONSOLE, "ingest", "in.fa", "-o", "atlas"], cwd=folder).code == DONE
    shutil.copytree(folder / "atlas", folder / "ingested")
    command = [*CONSOLE, "embed", "atlas", *options(folder), "--executor", "inline"]
    ran = done(command, cwd=folder, cpus=1)
    assert ran.code == DONE, ran.err
    assert len(parts(folder / "atlas", FOLDERS[0])) > 8
    return folder / "atlas"


def options(folder: Path) -> list[str]:
    return ["--heads", THREE, "--model", str(folder / "headed"), "--shard-tokens", "450"]


@pytest.mark.slow  # test_storm.py kills on a cluster too
@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_killed_on_a_cluster(tmp_path: Path, predicted: Path, head: Head, verb: str) -> None:
    """First an actor, in the middle of its shard, then the driver."""
    atlas = Path(shutil.copytree(predicted.with_name("ingested"), tmp_path / "atlas"))
    folders = FOLDERS if verb == "predict" else ["embeddings/headed", *FOLDERS]
    command = [*CONSOLE, verb, "atlas", *options(predicted.parent), "--workers", "2", "--address", head.address]
    with started(command, cwd=tmp_path) as run:
        run.wait_for(lambda: bool(parts(atlas, FOLDERS[-1])))
        os.kill(min(head.run.processes(RAY_WORKER)), signal.SIGKILL)
        run.wait_for(lambda: len(parts(atlas, FOLDERS[-1])) > 3)
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait()
    end = time.monotonic() + 20
    while head.run.processes(RAY_WORKER) and time.monotonic() < end:
        time.sleep(0.1)
    before = {path: path.stat().st_mtime_ns for folder in folders for path in parts(atlas, folder)}
    assert len(before) < len(folders) * len(parts(predicted, FOLDERS[0]))
    again = done(command, cwd=tmp_path)
    assert again.code == DONE, again.err
    assert "finished before; workers: " in again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same(atlas, predicted, folders)
