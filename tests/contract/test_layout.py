"""The picture of the repository stays easy to draw."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

import pytest

TOP = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "configs",
    "constraints.txt",
    "index",
    "model",
    "pyproject.toml",
    "raypipe",
    "tests",
}
TESTS = {"benchmarks", "contract", "faults", "golden", "integration", "property", "unit"}
LONGEST_FILE = 500
MEDIAN_FILE = 200


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    """Files of the repository, relative to its top."""
    if not (root / ".git").exists():
        pytest.skip("no git clone")
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if (root / line).is_file()]


def test_top_level(tracked: list[Path]) -> None:
    assert {path.parts[0] for path in tracked} <= TOP
    assert {path.parts[1] for path in tracked if path.parts[0] == "tests" and len(path.parts) > 2} <= TESTS


def test_files_are_short(root: Path, tracked: list[Path]) -> None:
    lengths = {path: len((root / path).read_text().splitlines()) for path in tracked if path.suffix == ".py"}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_FILE} == {}
    for package in ("raypipe", "model", "index"):
        assert statistics.median(n for path, n in lengths.items() if path.parts[0] == package) <= MEDIAN_FILE
