"""The files of a shard: finished is what stands on disk and says that it is of this set, this range and these rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index import files
from index.schema import REJECTS, read_footer, with_footer
from index.sets import Embedding, ShardedSet
from index.store import Store
from raypipe.plan import Shard


def part_path(store: Store, made: ShardedSet, shard: Shard, folder: str | None = None) -> Path:
    """Where the file of `shard` stands in one folder of its set; by default in the main one."""
    return store.root / (folder or made.main) / made.name / shard.file_name


def rejects_path(store: Store, made: ShardedSet, shard: Shard) -> Path:
    """Where the sequences of `shard` stand that the model refused; none, no file."""
    return store.root / "rejects" / f"part-{made.run}-{made.name}-{shard.number:06d}.parquet"


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
    store: Store, made: ShardedSet, shard: Shard, folder: str, table: pa.Table, failed: int, **options: Any
) -> int:
    """Commit the file of `shard` in one folder; its size in bytes.

    Args:
        table: a row for every sequence but the `failed` ones.
        options: of the Parquet writer.
    """
    path = part_path(store, made, shard, folder)
    schema = with_footer(table.schema, footer(made, shard, table.num_rows, failed))
    files.write_parquet(path, table.replace_schema_metadata(schema.metadata), store.root, **options)
    return path.stat().st_size


def write_rejects(store: Store, made: ShardedSet, shard: Shard, reasons: Mapping[int, str]) -> None:
    """Say why sequences failed, by seq_id.

    To be written before the shard's own file, so that a finished shard's failures are never missing.
    """
    path = rejects_path(store, made, shard)
    if not reasons:
        path.unlink(missing_ok=True)
        return
    source = f"{made.main}/{made.name}"
    rows = [
        {"source": source, "line": None, "id": None, "seq_id": seq_id, "reason": reason}
        for seq_id, reason in sorted(reasons.items())
    ]
    files.write_parquet(path, pa.Table.from_pylist(rows, schema=REJECTS), store.root)


def unfinished(store: Store, made: ShardedSet, shards: Sequence[Shard]) -> list[Shard]:
    """Shards without whole files of this set's fingerprint, or without the rejects that the files speak of."""
    return [shard for shard in shards if not is_finished(store, made, shard)]


def is_finished(store: Store, made: ShardedSet, shard: Shard) -> bool:
    """Whether every file of `shard` stands, is whole, and says that it is this shard's."""
    failed = count_failed(store, made, shard)
    expected = footer(made, shard, shard.num_sequences - failed, failed)
    return all(_read_footer(part_path(store, made, shard, folder)) == expected for folder in made.folders)


def count_failed(store: Store, made: ShardedSet, shard: Shard) -> int:
    """Sequences of `shard` that stand in rejects/."""
    return count_rows(rejects_path(store, made, shard))


def count_rows(part: Path) -> int:
    """Rows of a part file; one that is missing or damaged has none that can be read."""
    try:
        return pq.read_metadata(part).num_rows
    except (OSError, pa.ArrowException):
        return 0


def remove_strays(store: Store, made: ShardedSet, shards: Sequence[Shard]) -> None:
    """Remove files of shards that the plan does not have: of an earlier plan, they would count twice.

    The caller holds `store.lock()`.
    """
    planned = {shard.file_name for shard in shards}
    # An earlier try may have stored vectors of nucleotides too.
    for folder in {*made.folders, *(["tokens"] if isinstance(made, Embedding) else [])}:
        for path in store.set_parts(made, folder):
            if folder not in made.folders or path.name not in planned:
                path.unlink()
    failed = {rejects_path(store, made, shard) for shard in shards}
    own = re.compile(rf"part-{made.run}-{re.escape(made.name)}-\d+\.parquet")
    for path in (store.root / "rejects").glob(f"part-{made.run}-*.parquet"):
        if own.fullmatch(path.name) and path not in failed:
            path.unlink()


def _read_footer(path: Path) -> dict[str, object]:
    """What a shard's file says of itself; {} where there is none, or a damaged one, or one that lacks rows."""
    try:
        with pq.ParquetFile(path) as file:
            found = read_footer(file.schema_arrow.metadata)
            return found if found.get("rows") == file.metadata.num_rows else {}
    except (OSError, ValueError, pa.ArrowException):  # ValueError: no UTF-8 or no JSON any more
        return {}
