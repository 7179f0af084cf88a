"""Verbs about this machine: doctor, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def doctor() -> None:
    """Check the installation: versions, devices, Ray, disk. Exit code 1 if something keeps raypipe from working."""
    from raypipe.doctor import examine

    marks = {"ok": "  ", "note": "- ", "problem": "! "}
    problems = 0
    for finding in examine(Path.cwd()):
        problems += finding.level == "problem"
        print(f"{marks[finding.level]}{finding.what:16} {finding.message}")
    if problems:
        sys.exit(1)


def demo(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder of the demo atlas.")] = Path("demo-atlas"),
) -> None:
    """Run the whole line on the corpus and the model that ship with raypipe, and show what comes out."""
    from raypipe.demo import run_demo

    run_demo(output)
