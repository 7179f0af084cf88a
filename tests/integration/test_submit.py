"""`raypipe submit` on a cluster with a real job server: its log, its exit code, and a job that is stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.errors import UsageError
from raypipe.jobs import entrypoint
from tests.runs import CONSOLE, done, free_ports, shard_files, started, write_fasta
from tests.untrained import make_untrained

TRAP = "raise RuntimeError('the file of the user was imported')\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job server of a cluster of one node with two CPUs."""
    port, client, agent, dashboard, metrics = free_ports(5)
    # Not under pytest's folder: the path of a Unix socket is limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    options = {"port": port, "ray-client-server-port": client, "dashboard-agent-listen-port": agent, "num-cpus": 2}
    options |= {"dashboard-host": "127.0.0.1", "dashboard-port": dashboard, "metrics-export-port": metrics}
    options |= {"object-store-memory": 200_000_000, "temp-dir": home}
    command = [str(Path(CONSOLE[0]).with_name("ray")), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = home / "head.log"
    start = tmp_path_factory.mktemp("head")
    for name in ("model", "index"):
        (start / f"{name}.py").write_text(TRAP)
    try:
        # Jobs begin where the head began, which is not where the tests run.
        into_log = ["sh", "-c", 'exec "$@" >"$LOG" 2>&1', "sh"]
        path = f"{Path(CONSOLE[0]).parent}:{os.environ['PATH']}"
        with started([*into_log, *command], cwd=start, LOG=str(log), PATH=path) as run:
            run.wait_for(lambda: log.exists() and "Ray runtime started" in log.read_text())
            yield f"http://127.0.0.1:{dashboard}"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder, with files of the names of our packages."""
    folder = tmp_path_factory.mktemp("mine")
    write_fasta(folder / "in.fa", 400, 100, 200)
    make_untrained(folder / "nano", width=256, says_so=False)
    for name in ("model", "index"):
        (folder / f"{name}.py").write_text(TRAP)
    return folder


def submit(server: str, *words: str) -> list[str]:
    return [*CONSOLE, "submit", "--address", server, *words]


def test_a_job_from_a_folder_that_is_copied(server: str, folder: Path, tmp_path: Path) -> None:
    """The user's own model.py and index.py come along, before everything else on the path of driver and workers."""
    (folder / "configs.yaml").write_text("shard_tokens: 6000\n")
    command = ["embed", "in.fa", "-o", str(tmp_path / "atlas"), "--model", str(folder / "nano"), "--workers", "2"]
    run = done(submit(server, "--working-dir", ".", "--", *command, "--config", "configs.yaml"), cwd=folder)
    assert run.code == 0, run.out + run.err
    assert re.match(r"job raysubmit_\w+: python -m raypipe embed in\.fa -o /", run.err)
    assert "complete: 400 records and 0 rejects; 400 distinct sequences = 400 embedded + 0 failed" in run.out
    assert len(shard_files(tmp_path / "atlas")) > 8


@pytest.mark.slow
def test_a_job_of_ray_itself(server: str, folder: Path, tmp_path: Path) -> None:
    """`ray job submit` with the console script."""
    command = ["raypipe", "embed", "in.fa", "-o", str(tmp_path / "atlas"), "--model", str(folder / "nano")]
    ray = [str(Path(CONSOLE[0]).with_name("ray")), "job", "submit", "--address", server, "--working-dir", "."]
    run = done([*ray, "--", *command, "--workers", "1"], cwd=folder)
    assert run.code == 0, run.out + run.err
    assert "400 distinct sequences = 400 embedded + 0 failed" in run.out + run.err


@pytest.mark.slow
def test_a_job_that_fails_and_one_that_is_stopped(server: str, folder: Path, tmp_path: Path) -> None:
    wrong = done(
        submit(server, "--command", f"embed {folder / 'in.fa'} -o {tmp_path / 'a'} --model nothing"), cwd=folder
    )
    assert wrong.code == 1, wrong.out + wrong.err
    assert "raypipe: no model 'nothing'" in wrong.out
    # What is a path here is meant as such, wherever the job runs.
    command = ["embed", "in.fa", "-o", "atlas", "--model", str(folder / "nano"), "--workers", "1"]
    atlas = folder / "atlas"
    with started(submit(server, "--env", "RAYPIPE_EMBED_SHARD_TOKENS=3000", "--", *command), cwd=folder) as run:
        run.wait_for(lambda: bool(shard_files(atlas)))
        # Ctrl-C ends the following only.
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait(30)
    assert run.code == 3
    advice = re.search(r"stop it with: (ray job stop --address \S+ (\S+))", run.err)
    assert advice, run.err
    stopped = done([str(Path(CONSOLE[0]).with_name("ray")), *advice[1].split()[1:]], cwd=folder)
    assert stopped.code == 0, stopped.err
    made = len(shard_files(atlas))
    again = done(submit(server, "--env", "RAYPIPE_EMBED_SHARD_TOKENS=3000", "--", *command), cwd=folder)
    assert again.code == 0, again.out + again.err
    assert f"{made} finished before" in again.out


def test_no_job_server(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    run = done(submit(f"http://127.0.0.1:{port}", "--", "info", "x"), cwd=tmp_path)
    assert run.code == 1
    assert "no Ray job server answers" in run.lines[-1]
    assert len(run.lines) == 1


def test_the_line_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.fa").touch()
    for name in ("nano", "kind"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for words, line in (
        (["embed", "in.fa", "-o", "out put"], f"embed {tmp_path}/in.fa -o '{tmp_path}/out put'"),
        (["embed", "s3://b/in.fa", "--output=s3://b/atlas"], "embed s3://b/in.fa --output=s3://b/atlas"),
        (["embed", "/a", "--model", "nano"], "embed /a --model nano"),
        (["index", "--transform=in.fa", "x"], f"index --transform={tmp_path}/in.fa x"),
        # Names, also beside folders that are called so; but a bare name that is no model's is a folder's.
        (["embed", "/a", "--model", "nano", "--name", "kind"], "embed /a --model nano --name kind"),
        (["predict", "/a", "--heads", "kind,./kind"], f"predict /a --heads kind,{tmp_path}/kind"),
        (["embed", "/a", "--model", "kind"], f"embed /a --model {tmp_path}/kind"),
        (["finetune", "--data", "in.fa", "-o", "nano"], f"finetune --data {tmp_path}/in.fa -o {tmp_path}/nano"),
        (["annotate", "/a", "notes=in.fa"], f"annotate /a notes={tmp_path}/in.fa"),
        (["search", "/a", "--where", "a = 'in.fa'"], "search /a --where 'a = '\"'\"'in.fa'\"'\"''"),
    ):
        assert entrypoint(words, None) == f"python -m raypipe {line}"
    assert entrypoint(["embed", "in.fa"], tmp_path) == "python -m raypipe embed in.fa"
    with pytest.raises(UsageError, match="thrown away with what is written there"):
        entrypoint(["embed", "in.fa", "-o", "atlas"], tmp_path)
    with pytest.raises(UsageError, match="name the command"):
        entrypoint([], None)
