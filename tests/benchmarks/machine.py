"""What a benchmark ran on, so that its figures can be judged later. Runs in the peer's environment too."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODEL_PACKAGES = ("torch", "transformers", "multimolecule", "danling")
SEARCH_PACKAGES = ("numpy", "pyarrow", "faiss-cpu", "faiss-gpu", "hnswlib", "usearch", "scann", "lancedb", "pyhmmer")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system and load of this machine.

    Returns:
        `cpu`, `cores` (usable by this process), `bf16` (instructions for it, as the kernel names them),
        `memory_gib`, `system`, `python`, `load_average` (1, 5 and 15 minutes).
    """
    fields = _processor()
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "bf16": [flag for flag in flags if "bf16" in flag],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def has(instructions: str) -> bool:
    """Whether the processor has such instructions, as the kernel names them."""
    return instructions in _processor().get("flags", "").split()


def _processor() -> dict[str, str]:
    """What the kernel says of the first core."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return dict(
        [part.strip() for part in line.split(":", 1)] for line in info.split("\n\n")[0].splitlines() if ":" in line
    )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, as far as installed here."""
    found = {"python": platform.python_version()}
    for name in (*MODEL_PACKAGES, *SEARCH_PACKAGES, "raypipe"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def words(host: dict[str, Any]) -> str:
    """What `describe` found, in short."""
    bf16 = ", ".join(host["bf16"]) or "no bfloat16 instructions"
    return f"{host['cpu']}, {host['cores']} cores ({bf16}), {host['memory_gib']} GiB"


def load_words(host: dict[str, Any], during: Sequence[float], threads: int) -> str:
    """How busy the machine was: before the run by `describe`, and after each turn."""
    return (
        f"Load average {host['load_average'][0]} before, {min(during):.1f}-{max(during):.1f} during the turns; "
        f"this run alone makes about {threads}."
    )
