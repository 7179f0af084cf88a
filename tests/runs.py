"""Commands as real processes, for the tests that start, stop and kill them."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

CONSOLE = [str(Path(sys.executable).with_name("raypipe"))]
MODULE = [sys.executable, "-m", "raypipe"]
MARK = "RAYPIPE_TEST_MARK"
NANO = "embeddings/nano"
RAY_WORKER = "ray::MapWorker"
# What a run keeps alive. Ray's two agents outlive a killed driver by a minute, and hold nothing.
CLUSTER = ("gcs_server", "raylet", RAY_WORKER)


@dataclass
class Run:
    """One command with all that it starts: whatever inherits its mark from the environment is its own."""

    process: subprocess.Popen[str]
    mark: str
    out: str = ""
    err: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        return self.process.returncode

    def wait(self, seconds: float = 150) -> Run:
        """Wait for the end of the command and read what it said."""
        self.out, self.err = self.process.communicate(timeout=seconds)
        self.lines = self.err.splitlines()
        return self

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait, while the command runs, until `condition` holds."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.wait().code} too early:\n{self.err}")
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def processes(self, *names: str) -> dict[int, str]:
        """Living processes of this run, by id; of all names, or of those that contain one of `names`."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes():
                    continue
                name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if name and (not names or any(part in name for part in names)):
                found[int(folder.name)] = name
        return found

    def kill_all(self) -> None:
        """Leave nothing of this run behind."""
        while alive := self.processes():
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        self.process.wait()


@contextmanager
def started(command: list[str], *, cwd: Path, cpus: int | None = None, **environment: str) -> Iterator[Run]:
    """Start `command` in a session of its own; at the end of the block all that it started is killed.

    Args:
        cpus: let it see so many CPUs only.
    """
    mark = secrets.token_hex(16)

    def prepare() -> None:
        # A shell starts what runs in its background deaf to Ctrl-C, and the tests may be such a job.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if cpus:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])

    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, MARK: mark, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )
    run = Run(process, mark)
    try:
        yield run
    finally:
        run.kill_all()


def done(command: list[str], *, cwd: Path, cpus: int | None = None, seconds: float = 150, **environment: str) -> Run:
    """Run `command` to its end."""
    with started(command, cwd=cwd, cpus=cpus, **environment) as run:
        return run.wait(seconds)


def write_fasta(path: Path, number: int, shortest: int, longest: int) -> Path:
    """`number` random sequences, the same ones every time."""
    dice = random.Random(7)
    with path.open("w") as file:
        for name in range(number):
            file.write(f">r{name}\n{''.join(dice.choices('ACGU', k=dice.randint(shortest, longest)))}\n")
    return path


def shard_files(atlas: Path) -> list[Path]:
    """Finished shards of nano's vectors."""
    return sorted((atlas / NANO).glob("part-*.parquet"))


def vectors(atlas: Path) -> tuple[np.ndarray, np.ndarray]:
    """seq_ids (N,) and vectors (N, D) of nano, in the order of the files: shard by shard, as they were written."""
    tables = [pq.read_table(path) for path in shard_files(atlas)]
    ids = np.concatenate([table["seq_id"].to_numpy() for table in tables])
    values = np.concatenate([table["embedding"].combine_chunks().flatten().to_numpy() for table in tables])
    return ids, values.reshape(len(ids), -1)


def assert_same_vectors(atlas: Path, expected: Path) -> None:
    """Every row once, in order, and the same bits."""
    ids, values = vectors(atlas)
    wanted_ids, wanted = vectors(expected)
    np.testing.assert_array_equal(wanted_ids, np.arange(len(wanted_ids)))
    np.testing.assert_array_equal(ids, wanted_ids)
    np.testing.assert_array_equal(values, wanted)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, from the range of the system: above those that Ray gives its workers."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
