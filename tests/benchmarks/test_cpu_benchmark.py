"""The CPU's benchmark runs from end to end in small, with `nano` in place of wide layers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from model import registry
from tests.benchmarks import cpu


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_it_runs_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def small(folder: Path, layers: int, seed: int) -> None:
        shutil.copytree(registry.shipped_checkpoint("nano"), folder)

    monkeypatch.setattr(cpu, "wide_checkpoint", small)
    monkeypatch.setattr(cpu, "WITNESSES", 12)
    dice = random.Random(0)
    fasta = tmp_path / "made.fa"
    fasta.write_text("".join(f">s{k}\n{''.join(dice.choices('ACGU', k=20 + 10 * k))}\n" for k in range(40)))
    asked = ["--fasta", str(fasta), "--results", str(tmp_path / "results"), "--rounds", "1", "--sequences", "36"]
    cpu.main(asked)
    (file,) = (tmp_path / "results").glob("cpu-*.json")
    result = json.loads(file.read_text())
    assert result["settings"]["fasta"] == "made.fa"
    assert result["difference"] < 1e-4
    assert result["bfloat16_worst_cosine"] > 0.999 < result["nano"]["bfloat16"]["worst"]
    assert set(result["ratios"]) == set(cpu.TARGETS)
    # Two padded batches: one of 32, and the rest.
    assert result["padding"]["padded_tokens"] > result["padding"]["tokens"] > 36 * 22
    assert all(each["median"] > 0 for each in result["tokens_per_s"].values())
    page = file.with_suffix(".md").read_text()
    assert capsys.readouterr().out.strip().endswith(page.strip())
    with pytest.raises(SystemExit, match="40 sequences, 41 are asked for"):
        cpu.main([*asked, "--sequences", "41"])
