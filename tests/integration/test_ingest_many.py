"""Several files are read at once, each in a process of its own; what comes of it is as if one came after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from raypipe import staging
from raypipe.cli import DONE, FAILED
from tests.integration.conftest import Cli
from tests.runs import write_fasta

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes need two CPUs")
KINDS = ("sequences", "records", "rejects")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Four files; the first three share sequences, the last has one that is none."""
    made = [str(write_fasta(tmp_path / f"{place}.fa", 300 + 50 * place, 5, 60)) for place in range(3)]
    (tmp_path / "last.fa").write_text(">good\nACGU\n>bad\nMKL\n")
    return [*made, str(tmp_path / "last.fa")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the files are."""
    monkeypatch.setattr(staging, "WORTH_PROCESSES", 1)


def everything(atlas: Path) -> dict[str, list[dict[str, object]]]:
    return {
        kind: ds.dataset([str(path) for path in sorted((atlas / kind).glob("*"))]).to_table().to_pylist()
        for kind in KINDS
    }


def test_as_one_after_another(cli: Cli, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in files:
        assert cli("ingest", file, "-o", tmp_path / "single").code == DONE
    monkeypatch.setattr(staging, "WORTH_PROCESSES", 1)
    together = cli("ingest", *files, "-o", tmp_path / "together")
    assert together.code == DONE, together.err
    told = [together.err.index(f"{file}: ") for file in files]
    assert told == sorted(told)
    assert everything(tmp_path / "together") == everything(tmp_path / "single")
    assert not any((tmp_path / "together" / ".tmp").iterdir())
    assert multiprocessing.active_children() == []
    again = cli("ingest", *files, "-o", tmp_path / "together")
    assert again.err.count("ingested before, nothing to do") == len(files)


@pytest.mark.usefixtures("at_once")
def test_one_that_cannot_be_read_takes_no_other_along(cli: Cli, files: list[str], tmp_path: Path) -> None:
    Path(files[1]).write_bytes(b"\x1f\x8b not gzip at all")
    ran = cli("ingest", *files, "-o", tmp_path / "atlas")
    assert ran.code == FAILED
    assert f"{files[1]}: damaged or cut short" in ran.err
    assert "(1 of 4 inputs; the others are ingested)" in ran.err
    assert len(everything(tmp_path / "atlas")["records"]) == 300 + 400 + 1


@pytest.mark.usefixtures("at_once")
def test_a_process_that_dies_is_told(cli: Cli, files: list[str], tmp_path: Path) -> None:
    """As the kernel kills one when the memory is used up."""
    waiting = tmp_path / "pipe.fa"
    write_fasta(waiting, 400_000, 20, 60)
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            for child in multiprocessing.active_children():
                if (tmp_path / "atlas" / ".tmp" / "ingest").exists() and child.pid:
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    ran = cli("ingest", str(waiting), *files, "-o", tmp_path / "atlas")
    killer.join()
    assert killed
    assert ran.code == FAILED
    assert "died, most likely for lack of memory; ingest the files one by one" in ran.err
    end = time.monotonic() + 30
    while multiprocessing.active_children():
        assert time.monotonic() < end, multiprocessing.active_children()
        time.sleep(0.05)
    assert cli("ingest", *files, "-o", tmp_path / "atlas").code == DONE
    assert len(everything(tmp_path / "atlas")["records"]) == 300 + 350 + 400 + 1
