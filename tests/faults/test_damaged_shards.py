"""A finished shard is a file that stands, is whole, and says that it is of this run; anything else is made anew."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from index.schema import read_footer, with_footer
from index.store import Store
from raypipe.cli import run
from raypipe.plan import read_plan
from tests.faults.conftest import SHARD_TOKENS
from tests.made import unfinished
from tests.runs import NANO, assert_same_vectors, shard_files

Damage = Callable[[Path], object]


def truncate(share: float) -> Damage:
    return lambda shard: shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])


def put_another(shard: Path) -> None:
    """A whole file, of the right run, but another shard's."""
    shutil.copy(shard.with_name("part-000004.parquet"), shard)


def put_foreign(shard: Path) -> None:
    """A whole file of the same shard, but of a run with another model, pooling or layer."""
    table = pq.read_table(shard)
    footer = {**read_footer(table.schema.metadata), "fingerprint": "0" * 64}
    pq.write_table(table.replace_schema_metadata(with_footer(table.schema, footer).metadata), shard)


def put_fewer_rows(shard: Path) -> None:
    """A whole file of the right name and mark, without its last row."""
    table = pq.read_table(shard)
    pq.write_table(table.slice(0, table.num_rows - 1), shard)


DAMAGES: dict[str, Damage] = {
    "missing": lambda shard: shard.unlink(),
    "empty": truncate(0),
    "cut in half": truncate(0.5),
    "cut at the end": truncate(0.999),
    "text": lambda shard: shard.write_text("not Parquet\n"),
    "another shard": put_another,
    "foreign": put_foreign,
    "fewer rows": put_fewer_rows,
}


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("damage", DAMAGES)
def test_is_made_anew(tmp_path: Path, undisturbed: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    atlas = Path(shutil.copytree(undisturbed, tmp_path / "atlas"))
    shard = atlas / NANO / "part-000001.parquet"
    others = {path: path.stat().st_mtime_ns for path in shard_files(atlas) if path != shard}
    DAMAGES[damage](shard)
    capfd.readouterr()
    assert run(["embed", str(atlas), *SHARD_TOKENS, "--executor", "inline"]) == 0
    assert f"in 1 shards, {len(others)} finished before" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in others} == others
    ids = [path.name for path in shard_files(atlas)]
    assert ids == [path.name for path in shard_files(undisturbed)]
    assert_same_vectors(atlas, undisturbed)


def test_no_flipped_bit_of_the_footer_is_an_error(tmp_path: Path, undisturbed: Path) -> None:
    """Whichever bit it is, the shard is finished or is not; most flips are noticed without reading the vectors."""
    atlas = Path(shutil.copytree(undisturbed, tmp_path / "atlas"))
    store = Store.open(atlas)
    shard = read_plan(store, store.embedding("nano"))[1]
    file = atlas / NANO / shard.file_name
    content = file.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    dice = random.Random(7)
    noticed = 0
    for position in range(begin, len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << dice.randrange(8)
        file.write_bytes(flipped)
        noticed += unfinished(store, store.embedding("nano"), [shard]) == [shard]
    assert noticed > (len(content) - begin) / 2
