"""Which part files of a set count: those whose footer carries the set's fingerprint."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.schema import read_footer
from index.sets import ShardedSet
from index.store import Store


def fitting_parts(store: Store, made: ShardedSet, seq_ids: np.ndarray | None = None) -> list[Path]:
    """The files of `made` in its main folder that were made for it, in order.

    A damaged file is among them: whoever reads it shall complain.

    Args:
        seq_ids: (n,) int64; leave out the files whose footer tells that they hold none of these sequences.
    """
    ordered = None if seq_ids is None else np.unique(seq_ids)
    return [path for path in store.set_parts(made) if _counts(path, made.fingerprint, ordered)]


def _counts(path: Path, fingerprint: str, seq_ids: np.ndarray | None) -> bool:
    status = path.stat()
    footer = _footer(path, status.st_ino, status.st_mtime_ns)
    if footer is None:
        return True
    if footer.get("fingerprint") != fingerprint:
        return False
    if seq_ids is None or "seq_lo" not in footer or "seq_hi" not in footer:
        return True
    begin, end = np.searchsorted(seq_ids, [footer["seq_lo"], footer["seq_hi"]])
    return bool(begin < end)


@lru_cache(maxsize=1 << 16)
def _footer(path: Path, inode: int, changed: int) -> dict[str, Any] | None:
    """What a part says of itself, None if it is damaged; parts are replaced whole, so inode and time tell them apart.

    Kept, since a served search with a condition asks for every part's each time.
    """
    try:
        return read_footer(pq.read_schema(path).metadata)
    except (pa.ArrowException, OSError, ValueError):
        return None
