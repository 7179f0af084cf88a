"""Part files that cannot be read: which one it is, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from index import duck, graph
from index.parquet import open_parquet
from index.parts import fitting_parts
from index.places import Place, below, is_of_transport, raise_unreachable
from index.sets import Prediction, ShardedSet
from index.store import Store

_OF_A_FILE = re.compile(r"parquet|failed to read file|no files found|not read enough bytes", re.IGNORECASE)


def is_damage(error: duckdb.Error) -> bool:
    """Whether DuckDB complains of a Parquet file that it read, or could not read for the way to it."""
    if is_of_transport(error):
        return True
    # What its Parquet reader meets inside of a page comes as an error of no class of its own.
    if type(error) is duckdb.Error:
        return True
    of_reading = isinstance(error, (duckdb.InvalidInputException, duckdb.IOException, duckdb.InternalException))
    return of_reading and _OF_A_FILE.search(str(error)) is not None


def complaint(store: Store, owners: Sequence[ShardedSet | str], error: duckdb.Error) -> str:
    """What to tell of `error`, which reading the parts of `owners` gave.

    Where DuckDB does not name the file, the parts are read one by one until one cannot be.

    Args:
        owners: sets, and tables of the store ("sequences", "records", "rejects", "neighbors"); at least one.

    Raises:
        UnreachableError: no file is damaged, the object store cannot be reached.
    """
    raise_unreachable(store.root, error)
    said = duck.first_lines(error)
    files = {path: owner for owner in owners for path in _parts(store, owner)}
    damaged = next((path for path in files if below(path, store.root) in said), None)
    damaged = damaged or next((path for path in files if not _readable(path)), None)
    if damaged is not None:
        return f"{damaged}: is damaged ({said}); {_mend(files[damaged])}"
    folders = " or ".join(f"{_folder(store, owner)} ({_mend(owner)})" for owner in owners)
    return f"{said}; a file is damaged in {folders}"


def _parts(store: Store, owner: ShardedSet | str) -> list[Place]:
    if owner == graph.FOLDER:
        return sorted(graph.folder(store).glob("part-*.parquet"))
    return store.parts(owner) if isinstance(owner, str) else fitting_parts(store, owner)


def _folder(store: Store, owner: ShardedSet | str) -> Place:
    return store.root / owner if isinstance(owner, str) else store.root / owner.main / owner.name


def _mend(owner: ShardedSet | str) -> str:
    if owner == graph.FOLDER:
        return "remove it and run the same raypipe neighbors again, which makes what is missing"
    if isinstance(owner, str):
        return "restore it from a copy, or ingest into a new atlas"
    masked = isinstance(owner, Prediction) and owner.task in ("pll", "logits", "variants")
    verb = "mlm" if masked else owner.run
    return f"remove it and run the same raypipe {verb} again, which makes what is missing"


def _readable(path: Place) -> bool:
    try:
        with open_parquet(path) as file:
            for _ in file.iter_batches(4096):
                pass
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True
