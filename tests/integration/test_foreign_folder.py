"""raypipe works where the user's own model.py and index.py lie; Ray's workers there are in test_ray_run.py."""

from __future__ import annotations

import sys
from pathlib import Path

from raypipe.bootstrap import HOME
from tests.runs import CONSOLE, MODULE, done, write_fasta

TRAP = "raise RuntimeError('the file of the user was imported')\n"
QUERY = "GGCUACGAUCGAUGCAUCGAUUAGC"


def test_files_and_folders_of_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"\0")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "__init__.py").write_text(TRAP)
    write_fasta(tmp_path / "in.fa", 60, 20, 100)
    for verb in (["embed", "in.fa", "-o", "atlas", "--executor", "inline"], ["index", "atlas"]):
        made = done([*MODULE, *verb], cwd=tmp_path)
        assert made.code == 0, made.err
    (tmp_path / "model.py").write_text(TRAP)
    for command in (MODULE, CONSOLE):
        found = done([*command, "search", "atlas", QUERY, "-k", "3"], cwd=tmp_path)
        assert found.code == 0, found.err
        assert found.out.count("\nquery_1\t") == 3
    script = f"import raypipe; print(len(raypipe.connect('atlas').search({QUERY!r}, k=3)))"
    asked = done([sys.executable, "-c", script], cwd=tmp_path)
    assert asked.out == "3\n", asked.err


def test_a_foreign_model_that_came_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("answer = 42\n")
    message = (
        f"raypipe needs its own package 'model', but {tmp_path / 'model.py'} was imported under that name before; "
        "rename that file, or import raypipe first"
    )
    script = "import model\nfrom raypipe.cli import run\nraise SystemExit(run(['--version']))\n"
    run = done([sys.executable, "-c", script], cwd=tmp_path)
    assert run.code == 1
    assert run.err == f"raypipe: {message}\n"
    script = "import model\nimport raypipe\nraypipe.connect('atlas')\n"
    assert done([sys.executable, "-c", script], cwd=tmp_path).lines[-1] == f"ImportError: {message}"


def test_pin_leaves_the_path_as_it_was() -> None:
    script = (
        "import sys; before = list(sys.path); from raypipe.bootstrap import pin; pin(); assert sys.path == before; "
        "import model, index; print(model.__file__, index.__file__)"
    )
    run = done([sys.executable, "-c", script], cwd=HOME)
    assert run.out.split() == [str(HOME / name / "__init__.py") for name in ("model", "index")]
