"""The benchmark of families runs from end to end in small: relatives are found before all lists are visited."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.benchmarks import families


def test_it_runs_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(0)
    lines = ["id\tsequence\trfam_acc\tclan\tcluster80"]
    for family in range(60):
        ancestor = dice.choices("ACGU", k=60)
        for member in range(6):
            copy = [dice.choice("ACGU") if dice.random() < 0.1 else letter for letter in ancestor]
            lines.append(f"f{family}m{member}\t{''.join(copy)}\tRF{family:05d}\tCL{family // 2}\tc{family}_{member}")
    table = tmp_path / "made.tsv"
    table.write_text("\n".join(lines) + "\n")
    families.main([str(table), "--lists", "8", "--sample", "40", "--results", str(tmp_path / "results")])
    (file,) = (tmp_path / "results").glob("families-*.json")
    result = json.loads(file.read_text())
    assert result["sequences"] == 360
    assert result["settings"]["table"] == "made.tsv"
    for transform in families.TRANSFORMS:
        exact, *rows = [row for row in result["rows"] if row["transform"] == transform]
        assert [row["nprobe"] for row in rows] == [1, 2, 4, 8]
        assert exact["top1"] > 0.9
        assert rows[0]["recall"] < rows[-1]["recall"] > 0.9
        assert rows[-1]["top1"] == pytest.approx(exact["top1"], abs=0.05)
    assert capsys.readouterr().out.strip().endswith(file.with_suffix(".md").read_text().strip())
