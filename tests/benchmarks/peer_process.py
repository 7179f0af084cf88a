"""Warm processes of the comparisons with multimolecule, and the random checkpoints that both sides load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import peer_environment
from tests.benchmarks.conversation import ROOT, Warm
from tests.benchmarks.rounds import Turn

ROLES = ("multimolecule", "raypipe")
MODULE = "tests.benchmarks.peer_worker"


class Worker:
    """A warm process that answers requests; see peer_worker.py.

    Args:
        role: "multimolecule", which runs in the peer's environment, or "raypipe".
        dtype: type of the computation.
        checkpoint: folder that both roles can load.
        task: "embed" or "variants".
        threads: that torch computes with.
    """

    def __init__(self, role: str, dtype: str, checkpoint: Path, task: str, threads: int) -> None:
        self.role, self.dtype = role, dtype
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        interpreter = peer_environment.ensure() if role == "multimolecule" else sys.executable
        command = [interpreter, "-m", MODULE, role, checkpoint, dtype, "--task", task, "--threads", threads]
        self._process = Warm(self.name, command, environment)
        self.hello = self._process.hello

    @property
    def name(self) -> str:
        """Role and compute type, as in the results."""
        return f"{self.role} {self.dtype}"

    @property
    def saved(self) -> Path:
        """Where the process leaves what it computed."""
        return peer_environment.cache_folder() / f"{self.role}-{self.dtype}.npy"

    def ask(self, sequences: list[str], **request: Any) -> Turn:
        """Do the task once and leave the result in `saved`; returns `wall_s` and `cpu_s`."""
        return self._process.ask(sequences=sequences, save=str(self.saved), **request)

    def close(self) -> None:
        """Let the process end and wait for it."""
        self._process.close()


def checkpoint(layers: int, *, masked_lm: bool = False) -> Path:
    """The random checkpoint of so many layers with the widths of AIDO.RNA-650M, made once by the peer."""
    name = f"checkpoint-650m-{layers}-layers{'-masked-lm' if masked_lm else ''}"
    folder = peer_environment.cache_folder() / name
    if not (folder / "vocab.txt").exists():
        command = [peer_environment.ensure(), "-m", MODULE, "make", folder, "--layers", str(layers)]
        subprocess.run([*command, *(["--masked-lm"] if masked_lm else [])], check=True, cwd=ROOT)
    return folder
