"""Receipts: a shard that one vouches for is not opened, and nothing else is believed without a look."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import parts
from index.receipts import ShardReceipt, Stamp, append_receipts, newest_receipts, read_receipts, receipts_path
from index.schema import embeddings_schema
from index.store import Source, Store
from raypipe import shard_files
from raypipe.completeness import check_set
from raypipe.plan import Shard, begin_plan, make_plans, read_plan
from raypipe.shard_files import find_strays, finished, vouch, write_part, write_rejects
from tests.made import on_disk, unfinished, vector_set

MADE = vector_set()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shard files that anyone opens to know whose they are."""
    names: list[str] = []

    def counted(read: Callable) -> Callable:
        return lambda path, *rest: names.append(path.name) or read(path, *rest)

    monkeypatch.setattr(shard_files, "_read_footer", counted(shard_files._read_footer))
    monkeypatch.setattr(shard_files, "count_rows", counted(shard_files.count_rows))
    monkeypatch.setattr(parts, "_footer", counted(parts._footer))
    return names


def make_store(root: Path, number: int) -> tuple[Store, list[Shard]]:
    """A store with `number` sequences of one nucleotide, each a shard of its own."""
    store = Store.open_or_create(root)
    folder = store.root / "sequences"
    folder.mkdir()
    columns = {
        "seq_id": np.arange(number),
        "md5": ["0" * 32] * number,
        "length": np.ones(number, np.int32),
        "sequence": ["A"] * number,
    }
    pq.write_table(pa.table(columns), folder / "part-00000-00000.parquet")
    store.add_source(Source("in.fa", "0", 0, number, 0, 0, number))
    begin_plan(store, MADE, None)
    return store, make_plans(store, [MADE], 10)[0]


def write(store: Store, shard: Shard, failed: int = 0) -> dict[str, Stamp]:
    """The files of a shard, and what a receipt says of them."""
    rows = shard.num_sequences - failed
    schema = embeddings_schema(MADE.dimension, MADE.dtype)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2 * rows, np.float32)), type=schema.field(1).type)
    ids = pa.array(range(shard.seq_lo, shard.seq_lo + rows), pa.int64())
    reasons = {shard.seq_hi - 1 - place: "too long" for place in range(failed)}
    rejects = write_rejects(store, MADE, shard, reasons)
    part = write_part(store, MADE, shard, MADE.main, pa.table([ids, vectors], schema=schema), failed)
    return {MADE.main: part, **({"rejects": rejects} if rejects else {})}


def receipt(shard: Shard, files: dict[str, Stamp], failed: int = 0, error: str = "") -> ShardReceipt:
    span = (shard.number, shard.seq_lo, shard.seq_hi, MADE.fingerprint)
    return ShardReceipt(*span, shard.num_sequences - failed, failed, files, error=error)


def test_thousands_of_shards_are_not_opened(tmp_path: Path, opened: list[str]) -> None:
    store, shards = make_store(tmp_path / "atlas", 2_000)
    assert len(shards) == 2_000
    first = write(store, shards[0])[MADE.main]
    folder = on_disk(store.root) / MADE.main / MADE.name
    for shard in shards[1:]:  # one file of many names: only its receipts say that it is theirs
        os.link(folder / first.name, folder / shard.file_name)
    names = {shard.number: replace(first, name=shard.file_name) for shard in shards}
    append_receipts(store.root, MADE, [receipt(shard, {MADE.main: names[shard.number]}) for shard in shards])
    assert make_plans(store, [MADE], 10) == [shards] == [read_plan(store, MADE)]
    assert unfinished(store, MADE, shards) == []
    assert find_strays(store, MADE, shards) == []
    assert check_set(store, MADE).complete
    assert len(parts.fitting_parts(store, MADE)) == 2_000
    asked = np.array([5, 1700, 1700])
    assert [path.name for path in parts.fitting_parts(store, MADE, asked)] == [shards[n].file_name for n in (5, 1700)]
    assert opened == []
    # What was written since is looked at, and is not what it is called.
    copy = folder / shards[7].file_name
    content = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(content)
    assert unfinished(store, MADE, shards) == [shards[7]]
    assert set(opened) == {shards[7].file_name, shard_files.rejects_path(store, MADE, shards[7]).name}
    # A run that has just written it asks it, whoever vouches.
    assert list(finished(store, MADE, shards[:3], reread={0, 1})) == [0, 2]


def test_what_nobody_vouches_for_is_looked_at_once(tmp_path: Path, opened: list[str]) -> None:
    store, shards = make_store(tmp_path / "atlas", 4)
    files = [write(store, shard) for shard in shards]
    append_receipts(store.root, MADE, [receipt(shards[0], files[0])])
    vouch(store, MADE, shards, finished(store, MADE, shards))
    assert {name for name in opened if name.startswith("part-0")} == {shard.file_name for shard in shards[1:]}
    opened.clear()
    assert unfinished(store, MADE, shards) == []
    assert opened == []
    # As after a copy that keeps no times: the same size, the same checksum.
    path = on_disk(store.root) / MADE.main / MADE.name / shards[0].file_name
    os.utime(path, ns=(1, 1))
    vouch(store, MADE, shards, finished(store, MADE, shards))
    stamp = newest_receipts(store.root, MADE)[0].files[MADE.main]
    assert (stamp.mtime_ns, stamp.sha256) == (1, files[0][MADE.main].sha256)
    assert newest_receipts(store.root, MADE)[1].files[MADE.main].sha256 is None
    assert len(read_receipts(store.root, MADE)) == 5


def test_rejects_belong_to_the_shard(tmp_path: Path, opened: list[str]) -> None:
    store, shards = make_store(tmp_path / "atlas", 2)
    for shard in shards:
        append_receipts(store.root, MADE, [receipt(shard, write(store, shard, failed=1), failed=1)])
    state = check_set(store, MADE)
    assert (state.made, state.failed, state.messages) == (0, 2, ())
    assert opened == []
    rejects = shard_files.rejects_path(store, MADE, shards[0])
    rejects.unlink()
    assert unfinished(store, MADE, shards) == shards[:1]
    # One more than the receipt knows of.
    write(store, shards[0])
    write_rejects(store, MADE, shards[0], {0: "once more"})
    assert unfinished(store, MADE, shards) == shards[:1]


def test_only_whole_receipts_of_this_set_count(tmp_path: Path) -> None:
    store, shards = make_store(tmp_path / "atlas", 3)
    whole = [receipt(shard, write(store, shard)) for shard in shards]
    append_receipts(store.root, MADE, whole[:1])
    path = on_disk(receipts_path(store.root, MADE))
    with path.open("a") as file:
        file.write('{"shard":1,"seq_lo":1,"se')  # killed
    append_receipts(store.root, MADE, [replace(whole[1], fingerprint="0" * 64), receipt(shards[0], {}, error="died")])
    append_receipts(store.root, MADE, [])
    append_receipts(store.root, MADE, whole[2:])
    assert len(path.read_text().splitlines()) == 5
    assert sorted(newest_receipts(store.root, MADE)) == [0, 2]
    assert [one.error for one in read_receipts(store.root, MADE)] == ["", "died", ""]
    # Of another range, as after a plan that was made anew; then the file itself is asked.
    shard = replace(shards[0], seq_hi=2)
    assert unfinished(store, MADE, [shard]) == [shard]
