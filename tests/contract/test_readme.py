"""The README tells the truth: its tour runs as printed, in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def blocks(root: Path) -> list[tuple[str, str]]:
    """Fenced blocks of the README, (language, code), in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(600)
def test_tour_runs_as_printed(root: Path, tmp_path: Path) -> None:
    """Shell and Python blocks run one after another in one folder, and say what the text promises."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # One start of Ray is enough: `raypipe embed` shows it.
    environment |= {"RAYPIPE_PREDICT_EXECUTOR": "inline", "RAYPIPE_MLM_EXECUTOR": "inline"}
    said = ""
    for language, code in blocks(root):
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        said += done.stdout + done.stderr
    assert "2 new distinct sequences; 1 rejected" in said
    assert "looks like protein" in said
    assert "exit code 2: rna3 is no RNA" in said
    assert "rna2\trna1\t" in said  # the filter left only the yeast one
    assert "(2, 512)" in said
    assert "rna3 is no RNA, the others are folded" in said
    assert re.search(r"^[.]*\([.()]{60,}$", said, re.MULTILINE)
    assert "kind is whole" in said
    assert (tmp_path / "run/checkpoint/README.md").is_file()
    assert "['purine', 'purine', 'pyrimidine', 'pyrimidine']" in said
    assert all((tmp_path / name).is_file() for name in ("hits.parquet", "vectors.npy", "vectors.ids.tsv"))
    assert (tmp_path / "yeast.csv").read_text().splitlines()[1].startswith("rna1,")
    assert (tmp_path / "variants.png").read_bytes().startswith(b"\x89PNG")


def verbs() -> list[str]:
    """Every verb of the command line, those of groups (`raypipe model`, `raypipe eval`) included."""
    from raypipe.cli.app import app

    names = [name for name in app if not name.startswith("-")]
    groups = [name for name in names if app[name].default_command is None]
    inner = [f"{group} {name}" for group in groups for name in app[group] if not name.startswith("-")]
    return [*(name for name in names if name not in groups), *inner]


def test_every_verb_is_in_the_readme(root: Path) -> None:
    """A verb that the README does not show is a verb that nobody finds."""
    text = (root / "README.md").read_text()
    assert len(verbs()) >= 12
    assert [verb for verb in verbs() if f"raypipe {verb}" not in text] == []


def test_options_in_the_readme_exist(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every --option that the README names is one of the command line's."""
    from raypipe.cli import run

    for verb in verbs():
        assert run([*verb.split(), "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (root / "README.md").read_text()))
    assert named <= known
