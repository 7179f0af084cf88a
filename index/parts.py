"""Which part files of a set count: those whose receipt, or whose footer, carries the set's fingerprint."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from index.parquet import read_schema
from index.places import Place
from index.receipts import is_unchanged, list_files, newest_receipts
from index.schema import read_footer
from index.sets import ShardedSet
from index.store import Store


def fitting_parts(store: Store, made: ShardedSet, seq_ids: np.ndarray | None = None) -> list[Place]:
    """The files of `made` in its main folder that were made for it, in order.

    A damaged file is among them: whoever reads it shall complain.

    Args:
        seq_ids: (n,) int64; leave out the files that, as they or their receipts tell, hold none of these sequences.
    """
    ordered = None if seq_ids is None else np.unique(seq_ids)
    folder = store.root / made.main / made.name
    listing = list_files(folder)
    # Opening ten thousand files takes seconds, reading their receipts takes none.
    spans = {
        stamp.name: (receipt.seq_lo, receipt.seq_hi)
        for receipt in newest_receipts(store.root, made).values()
        if (stamp := receipt.files.get(made.main)) and is_unchanged(stamp, listing)
    }
    parts = []
    for name in sorted(name for name in listing if name.startswith("part-") and name.endswith(".parquet")):
        path = folder / name
        if _holds(spans[name], ordered) if name in spans else _counts(path, made.fingerprint, ordered):
            parts.append(path)
    return parts


def _counts(path: Place, fingerprint: str, seq_ids: np.ndarray | None) -> bool:
    status = path.stat()
    footer = _footer(path, status.st_ino, status.st_mtime_ns)
    if footer is None:
        return True
    if footer.get("fingerprint") != fingerprint:
        return False
    if "seq_lo" not in footer or "seq_hi" not in footer:
        return True
    return _holds((footer["seq_lo"], footer["seq_hi"]), seq_ids)


def _holds(span: tuple[int, int], seq_ids: np.ndarray | None) -> bool:
    """Whether one of `seq_ids`, sorted, is in the range `span`; None stands for all."""
    if seq_ids is None:
        return True
    begin, end = np.searchsorted(seq_ids, span)
    return bool(begin < end)


@lru_cache(maxsize=1 << 16)
def _footer(path: Place, inode: int, changed: int) -> dict[str, Any] | None:
    """What a part says of itself, None if it is damaged; parts are replaced whole, so inode and time tell them apart.

    Kept, since a served search with a condition asks for every part's each time.
    """
    try:
        return read_footer(read_schema(path).metadata)
    except (pa.ArrowException, OSError, ValueError):
        return None
