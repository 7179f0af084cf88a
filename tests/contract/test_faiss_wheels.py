"""Both FAISS wheels install the same module, so there must be exactly one: `doctor` and first use say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import CONSOLE, done


@pytest.fixture
def second_wheel(tmp_path: Path) -> str:
    """A path with a second wheel's entry of installed distributions, as pip leaves it."""
    folder = tmp_path / "site" / "faiss_gpu-1.15.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu\nVersion: 1.15.1\n")
    (folder / "INSTALLER").write_text("pip\n")
    return str(folder.parent)


def test_two_wheels(tmp_path: Path, second_wheel: str) -> None:
    (tmp_path / "in.fa").write_text(">a\nGGCUACGAUCGAUGCAUCG\n>b\nACGUACGUAC\n")
    made = done([*CONSOLE, "embed", "in.fa", "-o", "atlas", "--executor", "inline"], cwd=tmp_path)
    assert made.code == 0, made.err
    message = "faiss-cpu and faiss-gpu are both installed and overwrite each other; run: pip uninstall -y faiss-cpu"
    used = done([*CONSOLE, "index", "atlas"], cwd=tmp_path, PYTHONPATH=second_wheel)
    assert used.code == 1
    assert message in used.lines[-1]
    assert len(used.lines) == 1
    doctor = done([*CONSOLE, "doctor"], cwd=tmp_path, PYTHONPATH=second_wheel)
    assert doctor.code == 1
    assert f"! faiss            {message}" in doctor.out

    assert done([*CONSOLE, "index", "atlas"], cwd=tmp_path).code == 0
