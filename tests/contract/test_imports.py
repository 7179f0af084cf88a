"""What may import what, and what importing costs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torch._dynamo", "ray", "faiss", "safetensors", "huggingface_hub", "transformers")
# Of processor time, which a busy machine does not change much.
SECONDS = 4.0
HELP = "from raypipe.cli import run; assert run(['--help']) == 0"


def loaded_by(code: str, folder: Path) -> list[str]:
    """Modules of HEAVY that are loaded after `code` has run in a fresh process."""
    tail = f"import sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{tail}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.parametrize("code", ["import raypipe", "import index", "import model", "import raypipe.client", HELP])
def test_importing_is_cheap(code: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert loaded_by(code, tmp_path) == []
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS


def test_the_client_needs_no_package_of_ours_that_a_user_may_have_too(tmp_path: Path) -> None:
    """In a folder with the user's own model.py and index.py neither theirs nor ours is loaded."""
    for name in ("model", "index"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    code = "import raypipe, sys; raypipe.connect('http://127.0.0.1:1').close(); "
    code += "print([name for name in ('model', 'index', 'torch', 'ray', 'faiss', 'duckdb') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr


def test_reading_and_asking_loads_no_engine(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nGGCUACG\n")
    verbs = [["ingest", "in.fa", "-o", "atlas"], ["info", "atlas"], ["sql", "atlas", "SELECT id FROM records"]]
    code = "from raypipe.cli import run\n" + "\n".join(f"assert run({verb}) == 0" for verb in verbs)
    assert loaded_by(code, tmp_path) == []


def test_the_check_sees_what_is_loaded(tmp_path: Path) -> None:
    """And torch's compiler, which takes as long to import as all the rest of torch, is not."""
    assert loaded_by("import model; model.load('nano')", tmp_path) == ["torch", "safetensors"]


def test_layers(root: Path) -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    checked = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "4 kept, 0 broken" in checked.stdout
