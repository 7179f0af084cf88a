"""Where copies are kept that can be made again: converted weights, fingerprints, files of remote stores."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$RAYPIPE_CACHE, else raypipe/ in $XDG_CACHE_HOME, else ~/.cache/raypipe; made by whoever writes there."""
    if own := os.environ.get("RAYPIPE_CACHE"):
        return Path(own).expanduser().absolute()
    # A relative XDG_CACHE_HOME is to be ignored, says the XDG base directory specification.
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "raypipe"
