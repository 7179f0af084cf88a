"""The type that is computed in where nobody says: by the processor at first, and from then on by the set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import model
from index.store import Store
from raypipe import compute_types
from raypipe.cli import DONE, USAGE
from tests.integration.conftest import Cli

INLINE = ("--executor", "inline", "--shard-tokens", "60")
OLD = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu avx512_bf16\n"
NEW = "processor\t: 0\nmodel name\t: x\nflags\t\t: fpu avx512f avx512_bf16 gfni\n"


@pytest.fixture(autouse=True)
def _nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYPIPE_CPU_DTYPE")


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes this machine one of such processors."""

    def become(text: str) -> None:
        file = tmp_path / f"cpuinfo-{len(text)}"
        file.write_text(text)
        monkeypatch.setattr(compute_types, "CPU_INFO", file)

    return become


@pytest.mark.parametrize(("text", "expected"), [(NEW, True), (NEW.replace("avx512", "amx"), True), (OLD, False)])
def test_the_first_processor_counts(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    assert not compute_types.has_bfloat16(file.with_name("absent"))
    file.write_text(text)
    assert compute_types.has_bfloat16(file) is expected


def test_a_set_keeps_the_type_that_it_was_begun_in(cli: Cli, atlas: Path, tiny: Path, on) -> None:
    def dtype(name: str) -> str:
        return Store.open(atlas).embedding(name).settings["dtype"]

    def vectors(name: str) -> np.ndarray:
        rows = (
            pq.read_table(sorted((atlas / "embeddings" / name).glob("part-*")))
            .sort_by("seq_id")["embedding"]
            .combine_chunks()
        )
        return rows.flatten().to_numpy().reshape(len(rows), -1).astype(np.float32)

    embed = ("embed", atlas, "--model", tiny, "--store-dtype", "float32", *INLINE)
    on(NEW)
    assert cli(*embed, "--name", "half").code == DONE
    assert dtype("half") == "bfloat16"
    on(OLD)
    assert cli(*embed, "--name", "whole").code == DONE
    assert dtype("whole") == "float32"
    # In place of a lost shard one is made that fits the others, on a machine that would begin otherwise.
    before = vectors("half")
    lost = sorted((atlas / "embeddings" / "half").glob("part-*"))[0]
    lost.unlink()
    assert cli(*embed, "--name", "half").code == DONE
    assert dtype("half") == "bfloat16"
    np.testing.assert_allclose(vectors("half"), before, atol=0.02 * np.abs(before).max())
    sequences = [row["sequence"] for row in pq.read_table(atlas / "sequences").sort_by("seq_id").to_pylist()]
    exact = model.load(tiny).embed(sequences)
    assert np.abs(vectors("whole") - exact).max() <= 1e-5 * np.abs(exact).max()
    assert np.abs(vectors("half") - exact).max() > 1e-4 * np.abs(exact).max()


def test_answers_without_an_atlas_follow_the_processor(cli: Cli, fresh: Path, on) -> None:
    def scores(text: str, *options: str) -> list[float]:
        on(text)
        ran = cli("mlm", "ACGUACGUAA", "--model", fresh, "--what", "logits", "--format", "jsonl", *options)
        assert ran.code == DONE, ran.err
        return [value for line in ran.out.splitlines() for row in json.loads(line)["logits"] for value in row]

    half, whole = scores(NEW), scores(OLD)
    assert half != whole
    assert whole == scores(NEW, "--dtype", "float32")
    assert half == pytest.approx(whole, abs=0.1)


def test_the_environment_names_another_default(cli: Cli, fresh: Path, on, monkeypatch: pytest.MonkeyPatch) -> None:
    on(NEW)
    monkeypatch.setenv("RAYPIPE_CPU_DTYPE", "float32")
    assert compute_types.default_dtype(cuda=False) == "float32"
    assert compute_types.default_dtype(cuda=True) == "bfloat16"
    monkeypatch.setenv("RAYPIPE_CPU_DTYPE", "half")
    ran = cli("mlm", "ACGU", "--model", fresh)
    assert (ran.code, ran.out) == (USAGE, "")
    assert "RAYPIPE_CPU_DTYPE=half: is float32, bfloat16 or float16, or not set" in ran.err


def test_eight_bits_are_asked_for_by_name(cli: Cli, atlas: Path, tiny: Path) -> None:
    """Emulated here; this trunk has one layer, which is computed in bfloat16 like every first and last one."""
    assert cli("embed", atlas, "--model", tiny, "--name", "eight", "--dtype", "float8", *INLINE).code == DONE
    assert Store.open(atlas).embedding("eight").settings["dtype"] == "float8"
