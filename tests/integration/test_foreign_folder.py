"""raypipe works where the user's own model.py and index.py lie, in the driver and in Ray's workers."""

from __future__ import annotations

import sys
from pathlib import Path

from raypipe.bootstrap import HOME
from tests.runs import CONSOLE, MODULE, done, shard_files, write_fasta

TRAP = "raise RuntimeError('the file of the user was imported')\n"
QUERY = "GGCUACGAUCGAUGCAUCGAUUAGC"


def test_files_of_the_same_names(tmp_path: Path) -> None:
    for name in ("model", "index"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    write_fasta(tmp_path / "in.fa", 60, 20, 100)
    # `python -m` puts the folder before everything else on the path, and Ray does the same in its workers.
    embedded = done([*MODULE, "embed", "in.fa", "-o", "atlas", "--workers", "1"], cwd=tmp_path)
    assert embedded.code == 0, embedded.err
    assert shard_files(tmp_path / "atlas")
    assert done([*MODULE, "index", "atlas"], cwd=tmp_path).code == 0
    for command in (MODULE, CONSOLE):
        found = done([*command, "search", "atlas", QUERY, "-k", "3"], cwd=tmp_path)
        assert found.code == 0, found.err
        assert found.out.count("\nquery_1\t") == 3


def test_folders_of_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"\0")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "__init__.py").write_text(TRAP)
    write_fasta(tmp_path / "in.fa", 60, 20, 100)
    embedded = done([*MODULE, "embed", "in.fa", "-o", "atlas", "--executor", "inline"], cwd=tmp_path)
    assert embedded.code == 0, embedded.err
    assert shard_files(tmp_path / "atlas")


def test_a_foreign_model_that_came_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("answer = 42\n")
    script = "import model\nfrom raypipe.cli import run\nraise SystemExit(run(['--version']))\n"
    run = done([sys.executable, "-c", script], cwd=tmp_path)
    assert run.code == 1
    assert run.err == (
        f"raypipe: raypipe needs its own package 'model', but {tmp_path / 'model.py'} was imported under that name "
        "before; rename that file, or import raypipe first\n"
    )


def test_pin_leaves_the_path_as_it_was() -> None:
    script = (
        "import sys; before = list(sys.path); from raypipe.bootstrap import pin; pin(); assert sys.path == before; "
        "import model, index; print(model.__file__, index.__file__)"
    )
    run = done([sys.executable, "-c", script], cwd=HOME)
    assert run.out.split() == [str(HOME / name / "__init__.py") for name in ("model", "index")]
