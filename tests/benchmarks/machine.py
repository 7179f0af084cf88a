"""What a benchmark ran on, so that its figures can be judged later."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system and load of this machine.

    Returns:
        `cpu`, `cores` (usable by this process), `bf16` (instructions for it, as the kernel names them),
        `memory_gib`, `system`, `python`, `load_average` (1, 5 and 15 minutes).
    """
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        [part.strip() for part in line.split(":", 1)] for line in info.split("\n\n")[0].splitlines() if ":" in line
    )
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
