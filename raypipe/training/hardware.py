"""What a training runs on, in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device, workers: int = 1) -> str:
    """Such as "2 x NVIDIA H100" or "2 threads of an Intel(R) Xeon(R) CPU"."""
    if device.type == "cuda":
        return f"{workers} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    share = f"{workers} workers of " if workers > 1 else ""
    return f"{share}{threads} thread{'s' if threads > 1 else ''} of {_processor()}"


def all_hardware(about: Mapping[str, Any]) -> list[str]:
    """What a run was computed on until now, the last one last.

    Args:
        about: what is kept with its state.
    """
    found = about.get("hardware") or []
    # Of a version that kept the last one only.
    return [found] if isinstance(found, str) else list(found)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or f"a {os.uname().machine} processor"
