"""Ctrl-C and SIGTERM at moments when nothing of ours runs: while DuckDB works, while modules load, at the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from raypipe.cli import DONE, INCOMPLETE
from tests.integration.conftest import Cli, Make
from tests.runs import started

LONG = "SELECT count(*) FROM range(100000000) a, range(100) b WHERE a.range * b.range % 7 = 3"
STOPPED = "raypipe: stopped; what is finished stays, run the same command again to go on"


@pytest.mark.parametrize(
    ("statement", "number"), [(LONG, signal.SIGINT), (LONG, signal.SIGTERM), (f"EXPLAIN ANALYZE {LONG}", signal.SIGINT)]
)
def test_sql(cli: Cli, ingested: Make, statement: str, number: int) -> None:
    atlas = ingested()
    timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    # Where it comes before the command is ready for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    timer.start()
    try:
        ran = cli("sql", atlas, statement)
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert (ran.code, ran.out, ran.err) == (INCOMPLETE, "", STOPPED)
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_modules_load(tmp_path: Path, number: int) -> None:
    # Python tells of every module that it has loaded, and there are hundreds after this one.
    command = [sys.executable, "-X", "importtime", "-m", "raypipe", "info", "atlas"]
    with started(command, cwd=tmp_path) as run:
        assert run.process.stderr is not None
        said = []
        for line in run.process.stderr:
            if line.endswith(" index.errors\n"):
                run.process.send_signal(number)
            elif not line.startswith("import time:"):
                said.append(line.rstrip())
        run.wait(60)
    assert (run.code, said) == (INCOMPLETE, [STOPPED])


def test_in_code_made_from_text(tmp_path: Path) -> None:
    """As collections.namedtuple makes it: Python takes that for the end, whoever catches the exception."""
    script = (
        "import raypipe.cli\n"
        "raypipe.cli.run = lambda arguments: exec('import signal; signal.raise_signal(signal.SIGINT)')\n"
        "raypipe.cli.main()\n"
    )
    with started([sys.executable, "-c", script], cwd=tmp_path) as run:
        run.wait(60)
    assert (run.code, run.lines) == (INCOMPLETE, [STOPPED])


def test_at_the_end_of_the_process(tmp_path: Path) -> None:
    script = (
        "import atexit, os, signal\n"
        "from raypipe.cli import main\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "main()\n"
    )
    with started([sys.executable, "-c", script, "--version"], cwd=tmp_path) as run:
        run.wait(60)
    assert (run.code, run.err) == (DONE, "")
    assert run.out.startswith("raypipe ")
