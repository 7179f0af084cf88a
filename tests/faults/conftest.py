"""What an undisturbed run makes of some sequences, and a Ray cluster that exists already."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs import CONSOLE, Run, done, free_ports, shard_files, started, write_fasta
from tests.untrained import make_untrained

SHARD_TOKENS = ["--shard-tokens", "6000"]


@dataclass(frozen=True)
class Head:
    """A cluster of one node with two CPUs: where it listens, and its processes."""

    address: str
    run: Run


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nano's name, with a tenth of its work."""
    return make_untrained(tmp_path_factory.mktemp("models") / "nano", width=256, says_so=False)


@pytest.fixture(autouse=True)
def by_default(light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of all runs that name no other. For one test: others run between those of this folder."""
    monkeypatch.setenv("RAYPIPE_EMBED_MODEL", str(light))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, light: Path) -> Path:
    """The atlas; in.fa lies beside it. Not to be changed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_fasta(folder / "in.fa", 400, 100, 200)
    # One CPU, one thread, as each of two workers on two CPUs has: then the bits are the same.
    command = [*CONSOLE, "embed", "in.fa", "-o", "atlas", *SHARD_TOKENS, "--executor", "inline"]
    run = done(command, cwd=folder, cpus=1, RAYPIPE_EMBED_MODEL=str(light))
    assert run.code == 0, run.err
    assert len(shard_files(folder / "atlas")) > 8
    return folder / "atlas"


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """The cluster; it has to outlive every run that joins it."""
    port, client, agent = free_ports(3)
    # Not under pytest's folder: the path of a Unix socket is limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    options = {"port": port, "ray-client-server-port": client, "dashboard-agent-listen-port": agent, "num-cpus": 2}
    options |= {"object-store-memory": 200_000_000, "temp-dir": home, "include-dashboard": "false"}
    command = [str(Path(CONSOLE[0]).with_name("ray")), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = home / "head.log"
    into_log = ["sh", "-c", 'exec "$@" >"$LOG" 2>&1', "sh"]
    try:
        with started([*into_log, *command], cwd=tmp_path_factory.mktemp("head"), LOG=str(log)) as run:
            run.wait_for(lambda: log.exists() and "Ray runtime started" in log.read_text())
            yield Head(f"127.0.0.1:{port}", run)
    finally:
        shutil.rmtree(home, ignore_errors=True)
