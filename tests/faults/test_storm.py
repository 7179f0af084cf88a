"""The short form of `make faults`: a driver, an actor and a node die while one atlas is embedded on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runs import done


@pytest.mark.slow  # the kinds of kills are tested one by one beside it
@pytest.mark.timeout(400)
def test_three_kills(root: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.storm"]
    run = done(command, cwd=root, seconds=380, KILLS="3", SHARDS="12", SEED="2")
    rows = [line.split("|")[1:-1] for line in run.out.splitlines() if line.startswith("| ")][1:]
    assert run.code == 0, run.out + run.err
    assert {row[1].strip() for row in rows} == {"driver", "actor", "node"}
    assert [row[-1].strip() for row in rows] == ["ok"] * 3
    assert "3 kills, 600 sequences each once and to the bit as undisturbed" in run.out
