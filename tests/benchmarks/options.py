"""The command line that the benchmarks share, and where their results go."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.benchmarks.samples import default_fasta

RESULTS = Path(__file__).resolve().parent / "results"


def parser(about: str | None, *, layers: int = 4, rounds: int = 3) -> argparse.ArgumentParser:
    """Options that every benchmark of the model takes.

    Args:
        about: shown by --help.
        layers: default number of layers of the random checkpoint.
        rounds: default number of rounds.
    """
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--fasta", type=Path, default=default_fasta())
    made.add_argument("--layers", type=int, default=layers)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--results", type=Path, default=RESULTS)
    return made


def write(folder: Path, name: str, result: dict[str, Any], page: str) -> None:
    """Write `<name>-<date>.json` and `.md`, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
