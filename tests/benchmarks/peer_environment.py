"""Virtual environments of their own for the peers: what they depend on need not fit ours, nor each other's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# multimolecule needs transformers 4 and an old hub client; about 1.5 GB.
MODEL_PEERS = HERE / "peer_requirements.txt"
# Vector indexes, and nhmmer; about 0.7 GB.
SEARCH_PEERS = HERE / "search_peer_requirements.txt"


def cache_folder() -> Path:
    """Where benchmarks keep what may be made again: `RAYPIPE_BENCH_DIR`, or `.bench/` in the repository."""
    return Path(os.environ.get("RAYPIPE_BENCH_DIR") or HERE.parents[1] / ".bench").resolve()


def ensure(requirements: Path = MODEL_PEERS) -> Path:
    """Make the environment, once for each content of `requirements`.

    Returns:
        Its Python interpreter.

    Raises:
        subprocess.CalledProcessError: pip could not install; its own message stands above.
    """
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"{requirements.stem.removesuffix('_requirements')}-{digest}"
    interpreter = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        print(f"making the environment of {requirements.name} in {folder}", file=sys.stderr)
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
                requirements,
            ],
            check=True,
        )
        ready.touch()
    return interpreter
