"""Where the states of a run lie; loads no torch."""

from __future__ import annotations

import re
from pathlib import Path

_STEM, _SUFFIX = "step-", ".safetensors"


def state_file(folder: Path, step: int) -> Path:
    """The state after `step` steps."""
    return folder / f"{_STEM}{step:08d}{_SUFFIX}"


def states(folder: Path) -> list[Path]:
    """Those that stand, oldest first; a file of any other name is somebody's own."""
    found = folder.glob(f"{_STEM}*{_SUFFIX}")
    return sorted((path for path in found if re.fullmatch(r"\d{8,}", path.stem.removeprefix(_STEM))), key=step_of)


def latest_state(folder: Path) -> Path | None:
    """The newest, or None."""
    found = states(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """How many steps were done when a state was written."""
    return int(path.stem.removeprefix(_STEM))
