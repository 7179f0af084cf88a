"""FAISS, from exactly one of the wheels that provide it.

The OpenBLAS inside FAISS takes recent AMD processors for older ones, without AVX-512: told by `OPENBLAS_CORETYPE` what
they are, it makes exact search faster, 1.8 times on one of them and a tenth on another. It reads that variable when it
is loaded, and never again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from index.errors import StoreError

KERNELS = "OPENBLAS_CORETYPE"
# What OpenBLAS's SkylakeX kernels are compiled for.
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


def installed_wheels() -> list[str]:
    """The installed distributions that provide the module `faiss`."""
    found = []
    for wheel in WHEELS:
        try:
            metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
        found.append(wheel)
    return found


@cache
def load_faiss() -> Any:
    """The module `faiss`, with the fastest kernels that this processor has, unless the environment names others.

    Raises:
        StoreError: no wheel is installed, several are (they overwrite each other's files), or the one cannot load.
    """
    wheels = installed_wheels()
    if not wheels:
        raise StoreError(
            "FAISS is not installed; run: pip install 'raypipe[cpu]' (or 'raypipe[gpu]' with an NVIDIA GPU)"
        )
    if len(wheels) > 1:
        raise StoreError(
            f"{' and '.join(wheels)} are both installed and overwrite each other; run: pip uninstall -y "
            f"{' '.join(wheels)}, then: pip install {wheels[0]} (or {wheels[-1]}; one of them)"
        )
    try:
        with _kernels():
            return import_module("faiss")
    except ImportError as error:
        raise StoreError(f"{wheels[0]} is installed but cannot be loaded ({error}); reinstall it with pip") from error


@contextmanager
def threads(most: int) -> Iterator[None]:
    """Let FAISS take `most` threads at the most, where it is called by this one meanwhile."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(before, most))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _kernels() -> Iterator[None]:
    """Name the kernels to whom is loaded meanwhile, and to nobody else."""
    if KERNELS in os.environ or not _features() >= AVX512:
        yield
        return
    os.environ[KERNELS] = "SkylakeX"
    try:
        yield
    finally:
        del os.environ[KERNELS]


def _features() -> set[str]:
    """What Linux says that the first processor can do; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def reason(error: RuntimeError) -> str:
    """The end of a FAISS message, which carries the C++ signature in front."""
    return str(error).splitlines()[0].split("Error:")[-1].strip()[:200]
