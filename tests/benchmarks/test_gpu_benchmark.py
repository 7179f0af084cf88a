"""The GPU's benchmark runs from end to end in small, and says why where it cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu


def test_it_runs_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--smoke", "--models", "650M", "--results", str(tmp_path)])
    (file,) = tmp_path.glob("gpu-*.json")
    result = json.loads(file.read_text())
    assert result["smoke"]
    assert result["device"] == "cpu"
    found = result["models"]["650M"]
    assert found["difference_to_padded"] <= 1e-5
    assert found["bfloat16"]["worst"] > 0.999 < result["nano"]["bfloat16"]["worst"]
    assert found["bfloat16"]["company"] <= 0.01
    assert result["nano"]["float8"]["median"] > 0.99
    assert 1 < found["padded"]["waste"] < 32
    assert all(found[part]["tokens_per_s"] > 0 for part in ("forward", "plain", "loop", "padded", "float8"))
    assert {row["length"] for row in found["parts"]["attention"]} == {24, 75, 300, 1000, 0}
    page = file.with_suffix(".md").read_text()
    assert "figures mean nothing" in page
    assert page.strip() == capsys.readouterr().out.strip()


def test_it_needs_torch_safetensors_and_numpy_only(root: Path) -> None:
    program = "import sys, tests.benchmarks.gpu; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    ours = {"pyarrow", "duckdb", "faiss", "ray", "pydantic", "dnaio", "pandas", "raypipe", "index", "huggingface_hub"}
    assert "torch" in done.stdout.split()
    assert not ours & set(done.stdout.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        gpu.main(["--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())
