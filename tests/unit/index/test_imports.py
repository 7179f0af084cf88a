"""What importing loads, and which FAISS is taken."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import index
from index import faiss_runtime
from index.errors import StoreError

ROOT = Path(index.__file__).resolve().parents[1]


def test_importing_is_cheap():
    heavy = ("faiss", "duckdb", "pyarrow", "numpy", "torch", "ray")
    code = f"import index, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_every_name_resolves():
    for name in index.__all__:
        assert getattr(index, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        index.nothing  # noqa: B018


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Make real metadata folders of distributions visible, in place of what is installed."""

    def install(*names: str) -> None:
        for name in names:
            folder = tmp_path / f"{name.replace('-', '_')}-1.15.1.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.15.1\n")
        faiss_runtime.load_faiss.cache_clear()
        others = [entry for entry in sys.path if "site-packages" not in entry]
        monkeypatch.setattr(sys, "path", [str(tmp_path), *others])

    return install


def test_no_faiss(wheels):
    wheels()
    assert faiss_runtime.installed_wheels() == []
    with pytest.raises(StoreError, match=r"FAISS is not installed; run: pip install 'raypipe\[cpu\]'"):
        faiss_runtime.load_faiss()


def test_two_faiss(wheels):
    wheels("faiss-cpu", "faiss-gpu")
    assert faiss_runtime.installed_wheels() == ["faiss-cpu", "faiss-gpu"]
    with pytest.raises(
        StoreError, match=r"faiss-cpu and faiss-gpu are both installed .*pip uninstall -y faiss-cpu faiss-gpu"
    ):
        faiss_runtime.load_faiss()


def test_the_one_faiss():
    faiss_runtime.load_faiss.cache_clear()
    assert faiss_runtime.load_faiss().__version__ == metadata.version(faiss_runtime.installed_wheels()[0])


def test_kernels_are_named_while_faiss_is_loaded_only(monkeypatch):
    """In a process of its own, since a library is loaded once."""
    asked = "print(os.environ.get('OPENBLAS_CORETYPE'))"
    code = f"import os; from index.faiss_runtime import load_faiss; load_faiss(); {asked}"
    monkeypatch.setenv("OPENBLAS_VERBOSE", "2")
    monkeypatch.delenv(faiss_runtime.KERNELS, raising=False)
    for given, left in ((None, "None"), ("Haswell", "Haswell")):
        if given:
            monkeypatch.setenv(faiss_runtime.KERNELS, given)
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == left
        said = ran.stderr.split()
        if given:
            assert said[-1] == given
        elif faiss_runtime._features() >= faiss_runtime.AVX512:
            assert said[-1] == "SkylakeX"
