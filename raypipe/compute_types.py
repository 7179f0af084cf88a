"""Which type a model computes in where the user does not say."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from raypipe.errors import UsageError

VARIABLE = "RAYPIPE_CPU_DTYPE"
TYPES = ("float32", "bfloat16", "float16")
CPU_INFO = Path("/proc/cpuinfo")
# As the kernel names them. With AVX-512 alone products of bfloat16 are emulated, and slower than those of float32.
BFLOAT16 = {"avx512_bf16", "amx_bf16"}


def default_dtype(*, cuda: bool) -> str:
    """bfloat16 on CUDA, and on a CPU that has instructions for it, where it takes half the time; else float32.

    Without CUDA it is the machine that asks which counts, unless its RAYPIPE_CPU_DTYPE names a type. A set of vectors
    or predictions keeps the type that it was begun in, on whatever machine it goes on.

    Raises:
        UsageError: RAYPIPE_CPU_DTYPE names none.
    """
    told = os.environ.get(VARIABLE, "")
    if told and told not in TYPES:
        raise UsageError(f"{VARIABLE}={told}: is {', '.join(TYPES[:-1])} or {TYPES[-1]}, or not set")
    if cuda:
        return "bfloat16"
    return told or ("bfloat16" if has_bfloat16(CPU_INFO) else "float32")


@cache
def has_bfloat16(cpu_info: Path) -> bool:
    """Whether the first processor of a file like /proc/cpuinfo has such instructions; False without the file."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return not BFLOAT16.isdisjoint(flags.split())
