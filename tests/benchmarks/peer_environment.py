"""The peer's own virtual environment: its dependencies exclude ours (transformers 4, an old hub client)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "peer_requirements.txt"


def cache_folder() -> Path:
    """Where benchmarks keep what may be made again: `RAYPIPE_BENCH_DIR`, or `.bench/` in the repository."""
    return Path(os.environ.get("RAYPIPE_BENCH_DIR") or HERE.parents[1] / ".bench").resolve()


def ensure() -> Path:
    """Make the environment, once for each content of `peer_requirements.txt`.

    Returns:
        Its Python interpreter.

    Raises:
        subprocess.CalledProcessError: pip could not install; its own message stands above.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"peer-{digest}"
    interpreter = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        print(f"making the peer's environment in {folder} (about 1.5 GB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run(
            [
                interpreter,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                REQUIREMENTS,
            ],
            check=True,
        )
        ready.touch()
    return interpreter
