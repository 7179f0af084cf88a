"""FAISS, from exactly one of the wheels that provide it.

OpenBLAS inside FAISS may take a recent AVX-512 processor for an older one: `OPENBLAS_CORETYPE=SkylakeX` in the
environment, before the program starts, then makes exact search up to 1.8 times as fast. Nothing is set here.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from index.errors import StoreError

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


def load_faiss() -> Any:
    """The module `faiss`.

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
        return import_module("faiss")
    except ImportError as error:
        raise StoreError(f"{wheels[0]} is installed but cannot be loaded ({error}); reinstall it with pip") from error
