"""What only shows later: at the second run, from another folder, with a second set of vectors, without an index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import raypipe
from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from raypipe.errors import UsageError
from tests.integration.conftest import Cli, make_checkpoint

INLINE = ["--executor", "inline"]


def test_what_is_incomplete_stays_so_at_every_run(cli: Cli, atlas: Path, tiny: Path) -> None:
    shutil.rmtree(atlas / "records")
    for _ in range(2):
        ran = cli("embed", atlas, "--model", tiny, *INLINE)
        assert ran.code == INCOMPLETE
        assert "0 rows in records/ where 7 were ingested" in ran.err
        assert "complete:" not in ran.err


def test_lost_rejects_are_made_again(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "long.fa").write_text(f">a\n{'ACGU' * 300}\n>b\nACGU\n")
    embed = ["embed", tmp_path / "atlas", "--model", tiny, "--on-long", "reject", *INLINE]
    assert cli("embed", tmp_path / "long.fa", "-o", tmp_path / "atlas", *embed[2:]).code == DONE
    (rejects,) = (tmp_path / "atlas" / "rejects").glob("part-embed-*")
    before = pq.read_table(rejects).to_pylist()
    rejects.unlink()
    ran = cli(*embed)
    assert ran.code == DONE
    assert "1 embedded + 1 failed" in ran.err
    assert pq.read_table(rejects).to_pylist() == before
    assert cli("index", tmp_path / "atlas").code == DONE
    query = cli("search", tmp_path / "atlas", "ACGU" * 300)
    assert query.code == USAGE
    assert "--on-long reject, so queries over 1022 nt are refused too" in query.err


def test_files_of_an_earlier_plan_do_not_count(cli: Cli, atlas: Path, tiny: Path) -> None:
    """A plan that is gone may be cut otherwise the next time; what it made under other names must not stay."""
    parts = sorted((atlas / "embeddings" / "tiny").glob("part-*"))
    shutil.copy(parts[0], parts[-1].with_name("part-000099.parquet"))
    (atlas / "rejects").mkdir(exist_ok=True)
    shutil.copy(parts[0], atlas / "rejects" / "part-embed-tiny-000099.parquet")
    bystander = atlas / "rejects" / "part-embed-tiny-max-000099.parquet"
    shutil.copy(parts[0], bystander)
    assert cli("embed", atlas, "--model", tiny, *INLINE).code == DONE
    assert sorted((atlas / "embeddings" / "tiny").glob("part-*")) == parts
    assert list((atlas / "rejects").glob("part-embed-*")) == [bystander]


def test_settings_are_free_until_a_shard_is_finished(cli: Cli, atlas: Path, tiny: Path) -> None:
    changed = ["embed", atlas, "--model", tiny, "--dtype", "bfloat16", "--shard-tokens", "30", *INLINE]
    assert cli(*changed).code == FAILED
    for part in (atlas / "embeddings" / "tiny").glob("part-*"):
        part.unlink()
    assert cli(*changed).code == DONE
    assert Store.open(atlas).embedding("tiny").shard_tokens == 30


def test_a_model_folder_is_found_from_everywhere(
    cli: Cli, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, tmp_path / "project" / "own model")
    (tmp_path / "project" / "in.fa").write_text(">a\nACGUU\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert cli("embed", "in.fa", "-o", "atlas", "--model", "own model", *INLINE).code == DONE
    assert cli("index", "atlas").code == DONE
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = cli("search", "../project/atlas", "ACGUU", "--columns", "id,score")
    assert (ran.code, ran.out.split()) == (DONE, ["id", "score", "a", "1.000000"])


def test_a_model_folder_that_has_moved(cli: Cli, atlas: Path, tiny: Path, tmp_path: Path) -> None:
    manifest = atlas / "store.json"
    manifest.write_text(manifest.read_text().replace(str(tiny), str(tmp_path / "gone" / "tiny")))
    ran = cli("search", atlas, "ACGU", "-k", "1")
    assert ran.code == FAILED
    assert "which cannot be had now" in ran.err
    assert "with --model" in ran.err
    assert cli("embed", atlas, "--model", tiny, *INLINE).code == DONE
    assert cli("search", atlas, "ACGU", "-k", "1").code == DONE


def test_vectors_that_the_manifest_does_not_know(cli: Cli, atlas: Path, tiny: Path) -> None:
    """As after a manifest was restored from an old copy: not called complete, and not thrown away."""
    manifest = json.loads((atlas / "store.json").read_text())
    manifest["embeddings"] = {}
    (atlas / "store.json").write_text(json.dumps(manifest))
    parts = list((atlas / "embeddings" / "tiny").glob("part-*"))
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert ran.code == FAILED
    assert "vectors that store.json does not know" in ran.err
    assert all(part.exists() for part in parts)


def test_tokens_of_a_try_that_failed_do_not_stay(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nACGUU\n")
    options = ["--model", tiny, *INLINE]
    assert cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", "--per-token", *options).code == DONE
    for part in (tmp_path / "atlas" / "embeddings" / "tiny").glob("part-*"):
        part.unlink()
    assert cli("embed", tmp_path / "atlas", *options).code == DONE
    assert list((tmp_path / "atlas" / "tokens" / "tiny").glob("part-*")) == []


def test_nothing_but_failures_is_no_index(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "long.fa").write_text(f">a\n{'ACGU' * 300}\n")
    atlas = tmp_path / "atlas"
    ran = cli("embed", tmp_path / "long.fa", "-o", atlas, "--model", tiny, "--on-long", "reject", *INLINE)
    assert "why they failed: raypipe sql" in ran.err
    ran = cli("index", atlas)
    assert ran.code == FAILED
    assert "no sequence of 'tiny' has a vector" in ran.err


def test_which_of_several_sets_is_indexed(cli: Cli, atlas: Path, tiny: Path, tmp_path: Path) -> None:
    assert cli("embed", atlas, "--model", tiny, "--pooling", "max", *INLINE).code == DONE
    # The live index says which, without one the user has to.
    assert "vectors of tiny," in cli("index", atlas).err
    shutil.rmtree(atlas / "index")
    ran = cli("index", atlas)
    assert ran.code == FAILED
    assert "several embeddings; say which with --name: tiny, tiny-max" in ran.err
    assert "vectors of tiny-max" in cli("index", atlas, "--name", "tiny-max").err
    assert cli("search", atlas, "ACGU", "-k", "1").code == DONE


def test_values_that_overflow_float16_are_rejected(cli: Cli, tmp_path: Path) -> None:
    """Also where only one nucleotide does and the mean would fit."""
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint(tmp_path / "loud", seed=3)
    tensors = load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][10] = 1e5  # the row of N
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "in.fa").write_text(f">quiet\n{'ACGU' * 10}\n>loud\n{'ACGU' * 10}N\n")
    options = ["--model", folder, "--layer", "0", "--per-token", *INLINE]
    assert cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", *options).code == DONE
    assert "do not fit float16" in cli("sql", tmp_path / "atlas", "SELECT reason FROM rejects").out
    tokens = pq.read_table(tmp_path / "atlas" / "tokens" / "loud-layer0")["values"].to_pylist()
    assert [len(values) for values in tokens] == [40]
    assert np.isfinite(np.array(tokens)).all()
    wide = ["--store-dtype", "float32", "--name", "wide"]
    ran = cli("embed", tmp_path / "atlas", *options, *wide)
    assert "2 embedded + 0 failed, in embeddings/wide" in ran.err


def test_embedding_in_python_needs_no_index(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nACGUU\n")
    assert cli("embed", tmp_path / "in.fa", "-o", tmp_path / "atlas", "--model", tiny, *INLINE).code == DONE
    assert raypipe.connect(tmp_path / "atlas").embed(["ACGU", "GG"]).shape == (2, 16)
    with pytest.raises(UsageError, match="exactly one"):
        raypipe.connect(tmp_path / "atlas").search()


def test_connect_in_a_folder_with_the_users_own_modules(finished: Path, tmp_path: Path) -> None:
    for name in ("model.py", "index.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    code = f"import raypipe; print(len(raypipe.connect({str(finished)!r}).search(ids=['s1'], k=2)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.returncode) == ("2", 0), ran.stderr


def test_a_converted_copy_of_an_untrained_model_says_so(cli: Cli, fresh: Path, tmp_path: Path) -> None:
    assert cli("model", "convert", fresh, tmp_path / "copy").code == DONE
    assert "copy is untrained" in cli("fill-mask", "ACG<mask>", "--model", tmp_path / "copy").err


def raypipe_nano() -> Path:
    """The folder of the checkpoint that ships."""
    from model import shipped_checkpoint

    return shipped_checkpoint("nano")


def test_shipped_settings_by_name(cli: Cli, atlas: Path) -> None:
    assert cli("index", atlas, "--config", "index").code == DONE
    ran = cli("index", atlas, "--config", "nothing")
    assert ran.code == USAGE
    assert "shipped are:" in ran.err
    assert "index" in ran.err.split("shipped are:")[1]


def test_the_environment_speaks_to_one_verb(cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPIPE_SEARCH_K", "2")
    assert len(cli("search", finished, "--ids", "s1", "--no-header").out.splitlines()) == 2
    monkeypatch.setenv("RAYPIPE_SEARCH_COLUMN", "id")
    ran = cli("search", finished, "--ids", "s1")
    assert ran.code == USAGE
    assert "did you mean RAYPIPE_SEARCH_COLUMNS?" in ran.err
    monkeypatch.setenv("RAYPIPE_NAME", "nonsense")
    assert "nano" in cli("model", "info").out


def test_a_standard_output_that_takes_nothing(cli: Cli, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (
        ["info", finished],
        ["status", finished, "--format", "json"],
        ["verify", finished],
        ["plan", finished],
        ["index", finished, "--plan"],
        ["model", "info", "--json"],
        ["sql", finished, "FROM records"],
        ["--help"],
    ):
        with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", full)
            ran = cli(*arguments)
        assert ran.code == FAILED
        assert ran.err == "raypipe: standard output: cannot be written (No space left on device)"
