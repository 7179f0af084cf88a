"""The files of a shard: finished is what stands on disk and says that it is of this set, this range and these rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from index import files, receipts
from index.parquet import open_parquet, read_metadata
from index.places import Place, at_once
from index.receipts import Listing, ShardReceipt, Stamp
from index.schema import REJECTS, read_footer, with_footer
from index.sets import Embedding, ShardedSet
from index.store import Store
from raypipe.plan import Shard


@dataclass(frozen=True)
class Finished:
    """A finished shard.

    Attributes:
        rows, failed: sequences that its files hold, and that stand in rejects/.
        receipt: the one that vouches for its files; None where their footers were read.
    """

    rows: int
    failed: int
    receipt: ShardReceipt | None


def part_path(store: Store, made: ShardedSet, shard: Shard, folder: str | None = None) -> Place:
    """Where the file of `shard` stands in one folder of its set; by default in the main one."""
    return store.root / (folder or made.main) / made.name / shard.file_name


def rejects_path(store: Store, made: ShardedSet, shard: Shard) -> Place:
    """Where the sequences of `shard` stand that the model refused; none, no file."""
    return store.root / receipts.REJECTS / _rejects_name(made, shard)


def _rejects_name(made: ShardedSet, shard: Shard) -> str:
    return f"part-{made.run}-{made.name}-{shard.number:06d}.parquet"


def footer(made: ShardedSet, shard: Shard, rows: int, failed: int) -> dict[str, object]:
    """What a shard's file says of itself: whose it is, which range, how many rows and how many failed."""
    return {
        "fingerprint": made.fingerprint,
        "shard": shard.number,
        "seq_lo": shard.seq_lo,
        "seq_hi": shard.seq_hi,
        "rows": rows,
        "failed": failed,
    }


def write_part(
    store: Store,
    made: ShardedSet,
    shard: Shard,
    folder: str,
    table: pa.Table | pa.RecordBatchReader,
    failed: int,
    **options: Any,
) -> Stamp:
    """Commit the file of `shard` in one folder; what a receipt says of it.

    Args:
        table: a row for every sequence but the `failed` ones.
        options: of `index.files.write_parquet`.
    """
    path = part_path(store, made, shard, folder)
    schema = with_footer(table.schema, footer(made, shard, shard.num_sequences - failed, failed))
    return _stamp(path, files.write_parquet(path, table, store.root, schema=schema, **options))


def _stamp(path: Place, sha256: str) -> Stamp:
    """What a receipt says of a file that was just written."""
    status = path.stat()
    return Stamp(path.name, status.st_size, status.st_mtime_ns, sha256)


def write_rejects(store: Store, made: ShardedSet, shard: Shard, reasons: Mapping[int, str]) -> Stamp | None:
    """Say why sequences failed, by seq_id; what a receipt says of the file, None where there is nothing to say.

    To be written before the shard's own file, so that a finished shard's failures are never missing.
    """
    path = rejects_path(store, made, shard)
    if not reasons:
        path.unlink(missing_ok=True)
        return None
    source = f"{made.main}/{made.name}"
    rows = [
        {"source": source, "line": None, "id": None, "seq_id": seq_id, "reason": reason}
        for seq_id, reason in sorted(reasons.items())
    ]
    return _stamp(path, files.write_parquet(path, pa.Table.from_pylist(rows, schema=REJECTS), store.root))


def finished(
    store: Store, made: ShardedSet, shards: Sequence[Shard], reread: Collection[int] = (), *, look: bool = True
) -> dict[int, Finished]:
    """Those of `shards` that are finished, by number.

    Files that a receipt vouches for are not opened; the others are judged by their footers.

    Args:
        reread: numbers of shards whose footers are read in any case.
        look: False to open no file at all: one that nobody vouches for is taken for finished and without rejects.
    """
    known = receipts.newest_receipts(store.root, made)
    listed = list_set(store, made)
    found = {}
    unsure = []
    for shard in shards:
        receipt = known.get(shard.number)
        if receipt and shard.number not in reread and _vouches(receipt, made, shard, listed):
            found[shard.number] = Finished(receipt.rows, receipt.failed, receipt)
        elif all(shard.file_name in listed[folder] for folder in made.folders):
            unsure.append(shard)
    judged = at_once(lambda shard: _judge(store, made, shard) if look else 0, unsure, store.root)
    for shard, failed in zip(unsure, judged, strict=True):
        if failed is not None:
            found[shard.number] = Finished(shard.num_sequences - failed, failed, None)
    return dict(sorted(found.items()))


def vouch(store: Store, made: ShardedSet, shards: Sequence[Shard], found: Mapping[int, Finished]) -> None:
    """Write receipts for finished shards that have none, so that nobody has to open their files again.

    A file keeps the checksum of its last receipt if it is as long: it was copied, most likely, and if it was changed
    `raypipe verify` is to see it. The caller holds `store.lock()`.

    Args:
        found: what `finished` gave.
    """
    judged = [shard for shard in shards if shard.number in found and found[shard.number].receipt is None]
    if not judged:
        return
    known = receipts.newest_receipts(store.root, made)
    listed = list_set(store, made)
    fresh = []
    for shard in judged:
        state, before = found[shard.number], known.get(shard.number)
        names = dict.fromkeys(made.folders, shard.file_name)
        if state.failed:
            names[receipts.REJECTS] = _rejects_name(made, shard)
        stamps = {folder: Stamp(name, *listed[folder][name]) for folder, name in names.items()}
        for folder, now in stamps.items():
            older = before.files.get(folder) if before else None
            if older and older.bytes == now.bytes:
                stamps[folder] = replace(now, sha256=older.sha256)
        span = (shard.number, shard.seq_lo, shard.seq_hi)
        fresh.append(ShardReceipt(*span, made.fingerprint, state.rows, state.failed, stamps))
    receipts.append_receipts(store.root, made, fresh)


def is_finished(store: Store, made: ShardedSet, shard: Shard) -> bool:
    """Whether every file of `shard` stands, is whole, and says that it is this shard's."""
    return _judge(store, made, shard) is not None


def _judge(store: Store, made: ShardedSet, shard: Shard) -> int | None:
    """By its files: how many sequences of a shard stand in rejects/; None where it is not finished."""
    failed = count_rows(rejects_path(store, made, shard))
    expected = footer(made, shard, shard.num_sequences - failed, failed)
    same = all(_read_footer(part_path(store, made, shard, folder)) == expected for folder in made.folders)
    return failed if same else None


def count_rows(part: Place) -> int:
    """Rows of a part file; one that is missing or damaged has none that can be read."""
    try:
        return read_metadata(part).num_rows
    except (OSError, pa.ArrowException):
        return 0


def remove_strays(store: Store, made: ShardedSet, shards: Sequence[Shard]) -> None:
    """Remove files of shards that the plan does not have: of an earlier plan, they would count twice.

    The caller holds `store.lock()`.
    """
    for path in find_strays(store, made, shards):
        path.unlink()


def find_strays(store: Store, made: ShardedSet, shards: Sequence[Shard]) -> list[Place]:
    """Files of the set that are of none of `shards`, which are all of its plan."""
    planned = {shard.file_name for shard in shards}
    strays = []
    folders: set[str] = set(made.folders)
    if isinstance(made, Embedding):
        folders.add("tokens")  # an earlier try may have stored vectors of nucleotides too
    for folder in sorted(folders):
        for name in receipts.list_files(store.root / folder / made.name):
            if re.fullmatch(r"part-.*\.parquet", name) and (folder not in made.folders or name not in planned):
                strays.append(store.root / folder / made.name / name)
    numbers = {shard.number for shard in shards}
    own = re.compile(rf"part-{made.run}-{re.escape(made.name)}-(\d+)\.parquet")
    for name in receipts.list_files(store.root / receipts.REJECTS):
        match = own.fullmatch(name)
        if match and int(match[1]) not in numbers:
            strays.append(store.root / receipts.REJECTS / name)
    return strays


def list_set(store: Store, made: ShardedSet) -> dict[str, Listing]:
    """The files in every folder of a set, and in rejects/."""
    listed = {folder: receipts.list_files(store.root / folder / made.name) for folder in made.folders}
    return {**listed, receipts.REJECTS: receipts.list_files(store.root / receipts.REJECTS)}


def _vouches(receipt: ShardReceipt, made: ShardedSet, shard: Shard, listed: Mapping[str, Listing]) -> bool:
    """Whether a receipt is of this shard, and of the very files that stand."""
    if (receipt.seq_lo, receipt.seq_hi) != (shard.seq_lo, shard.seq_hi):
        return False
    if receipt.rows + receipt.failed != shard.num_sequences:
        return False
    if bool(receipt.failed) != (_rejects_name(made, shard) in listed[receipts.REJECTS]):
        return False
    folders = {*made.folders, *([receipts.REJECTS] if receipt.failed else [])}
    same = (folder in listed and receipts.is_unchanged(file, listed[folder]) for folder, file in receipt.files.items())
    return receipt.files.keys() == folders and all(same)


def _read_footer(path: Place) -> dict[str, object]:
    """What a shard's file says of itself; {} where there is none, or a damaged one, or one that lacks rows."""
    try:
        with open_parquet(path) as file:
            found = read_footer(file.schema_arrow.metadata)
            return found if found.get("rows") == file.metadata.num_rows else {}
    except (OSError, ValueError, pa.ArrowException):  # ValueError: no UTF-8 or no JSON any more
        return {}
