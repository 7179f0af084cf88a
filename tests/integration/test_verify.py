"""`raypipe verify`: whatever is damaged is found and named, and what can be made again is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.receipts import newest_receipts, receipts_path
from index.schema import read_footer, with_footer
from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE
from tests.integration.conftest import Cli, Make

PART = "embeddings/tiny/part-000000.parquet"
INLINE = ("--executor", "inline", "--shard-tokens", "60")


def keeping_time(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """`change`, unnoticed by whoever looks at the file's size and time only."""

    def quietly(file: Path) -> None:
        before = file.stat()
        change(file)
        assert file.stat().st_size == before.st_size
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    return quietly


def flip(file: Path) -> None:
    """One bit in the middle: of a value, where the file holds little else."""
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Other rows under the same footer."""

    def write(file: Path) -> None:
        table = pq.read_table(file)
        pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file)

    return write


def repeat_a_row(table: pa.Table) -> pa.Table:
    return table.take([0, *range(table.num_rows - 1)])


def of_another_model(file: Path) -> None:
    table = pq.read_table(file)
    footer = {**read_footer(table.schema.metadata), "fingerprint": "0" * 64}
    pq.write_table(table.replace_schema_metadata(with_footer(table.schema, footer).metadata), file)


def not_a_number(table: pa.Table) -> pa.Table:
    column = table["embedding"].combine_chunks()
    values = column.flatten().to_numpy().copy()
    values[0] = np.nan
    return table.set_column(1, table.schema.field(1), pa.FixedSizeListArray.from_arrays(values, type=column.type))


def put_another(file: Path) -> None:
    shutil.copy(file, file.with_name("part-000099.parquet"))


def other_letters(table: pa.Table) -> pa.Table:
    return table.set_column(3, table.schema.field(3), pa.array(["A" * n for n in table["length"].to_pylist()]))


SHARDS: dict[str, tuple[Callable[[Path], None], bool, str]] = {
    "missing": (lambda file: file.unlink(), False, "shards unfinished: 0 (seq_id"),
    "cut": (cut, False, "damaged ("),
    "of another model": (of_another_model, False, "its footer differs in fingerprint"),
    "a row twice": (rewrite(repeat_a_row), False, "holds sequences twice"),
    "no columns": (rewrite(lambda table: table.select(["seq_id"])), False, "has other columns"),
    "flipped": (keeping_time(flip), True, "its checksum is not that of what was written"),
    "not a number": (rewrite(not_a_number), True, "holds values that are not finite"),
    "stray": (put_another, False, "no shard of the"),
}


def test_a_whole_atlas(cli: Cli, finished: Path) -> None:
    for options in ((), ("--deep",)):
        ran = cli("verify", finished, *options)
        assert (ran.code, ran.err) == (DONE, "")
        assert [line[:4] for line in ran.out.splitlines()] == ["ok  "] * 4
        assert "6 embedded and 0 failed" in ran.out
        assert "families" in ran.out


@pytest.mark.parametrize("damage", SHARDS)
def test_a_damaged_shard(cli: Cli, atlas: Path, finished: Path, tiny: Path, damage: str) -> None:
    change, deep, text = SHARDS[damage]
    change(atlas / PART)
    if damage == "not a number":
        receipts_path(atlas, Store.open(atlas).embedding()).unlink()  # its checksum would tell
    if deep:
        assert cli("verify", atlas).code == DONE
    options = ["--deep"] if deep else []
    ran = cli("verify", atlas, *options)
    assert ran.code == INCOMPLETE
    assert ran.err.endswith(": 1 problem")
    (line,) = [line for line in ran.out.splitlines() if text in line]
    again = f"; run the same raypipe embed {atlas} again"
    if damage != "missing":
        again = f"; raypipe verify {atlas} --mend removes it; then{again[1:]}"
    assert line.endswith(again)
    assert (f"contents were not compared; that does: raypipe verify {atlas} --deep" in ran.err) == (
        not deep and damage != "missing"
    )
    ran = cli("verify", atlas, *options, "--mend")
    assert ran.code == INCOMPLETE
    (line,) = [line for line in ran.out.splitlines() if text in line]
    assert line.endswith(again.replace(f"raypipe verify {atlas} --mend removes it; then", "removed;"))
    ran = cli("embed", atlas, "--model", tiny, *INLINE)
    assert ran.code == DONE, ran.err
    assert cli("verify", atlas, "--deep").code == DONE
    assert pq.read_table(atlas / PART).equals(pq.read_table(finished / PART))


OTHERS: dict[str, tuple[str, Callable[[Path], None], bool, str]] = {
    "cut sequences": ("sequences/*.parquet", cut, False, "damaged ("),
    "a sequence twice": ("sequences/*.parquet", rewrite(repeat_a_row), False, "1 sequences are there twice"),
    "no records": ("records/*.parquet", rewrite(lambda table: table.slice(1)), False, "6 rows in records/ where 7"),
    "other letters": ("sequences/*.parquet", rewrite(other_letters), True, "does not fit its own md5"),
    "index": ("index/segments/*/vectors.faiss", flip, False, "its checksum differs; build the index again"),
    "annotations": ("annotations/*.duckdb", cut, False, "annotate again"),
    "plan": ("embeddings/tiny/plan.parquet", rewrite(lambda table: table.slice(1)), False, "leaves sequences out"),
    "a later plan": ("embeddings/tiny/plan.parquet", rewrite(lambda table: table.slice(0, 1)), False, "came since it"),
}


@pytest.mark.parametrize("damage", OTHERS)
def test_other_damage(cli: Cli, atlas: Path, damage: str) -> None:
    where, change, deep, text = OTHERS[damage]
    (file,) = atlas.glob(where)
    change(file)
    ran = cli("verify", atlas, *(["--deep"] if deep else []))
    assert ran.code == INCOMPLETE
    assert any(line.startswith("    ") and text in line for line in ran.out.splitlines()), ran.out


def test_rejects_are_a_part_of_the_shard(cli: Cli, ingested: Make, headed: Path, tmp_path: Path) -> None:
    """Other kinds of sets are verified where they are made, in test_predictions.py."""
    atlas = ingested()
    (tmp_path / "long.fa").write_text(">long\n" + "ACGU" * 300 + "\n")
    assert cli("ingest", tmp_path / "long.fa", "-o", atlas).code == DONE
    embed = ["embed", atlas, "--model", headed, "--executor", "inline", "--on-long", "reject", "--per-token"]
    embed += ["--heads", "rna_type"]
    assert cli(*embed).code == DONE
    ran = cli("verify", atlas, "--deep")
    assert ran.code == DONE, ran.out
    assert ran.out.count(" and 1 failed") == 2
    (rejects,) = (atlas / "rejects").glob("part-embed-*.parquet")
    receipts = newest_receipts(atlas, Store.open(atlas).embedding()).values()
    assert [one.files["rejects"].name for one in receipts if one.failed] == [rejects.name]
    rejects.unlink()
    assert "its footer differs in rows, failed" in cli("verify", atlas).out
    assert cli(*embed).code == DONE
    assert cli("verify", atlas, "--deep").code == DONE


def test_it_takes_an_atlas(cli: Cli, tmp_path: Path) -> None:
    ran = cli("verify", tmp_path)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "not an atlas" in ran.err
