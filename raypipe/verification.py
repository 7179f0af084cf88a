"""Is an atlas whole? Every file is looked at, without Ray and without the lock; `deep` reads every byte.

What each part of the store has to hold follows from the manifest, the plans and the receipts. A problem names its file
and how to mend it; a damaged file of a set, which a run makes again, has to be removed for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa

from index import duck
from index.annotation_rows import open_rows
from index.annotation_tables import ALIAS, attach, list_tables, live_database
from index.errors import StoreError, UnreachableError
from index.info import checksum, current_info, rebuild, verify_files
from index.parquet import open_parquet, read_parquet
from index.places import Place
from index.receipts import REJECTS, Listing, Stamp, newest_receipts
from index.schema import embeddings_schema, predictions_schema, read_footer, tokens_schema
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store
from raypipe.completeness import check_sources, shard_names
from raypipe.errors import RaypipeError
from raypipe.plan import Shard, read_plan
from raypipe.shard_files import find_strays, footer, list_set, part_path, rejects_path
from raypipe.verified_tables import check_tables
from raypipe.wording import command, participle

UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError)
BATCH_ROWS = 1024  # of per-nucleotide values they are some gigabytes at most


@dataclass(frozen=True)
class Problem:
    """Something that is not as it has to be.

    Attributes:
        text: which file, what is wrong with it, and, where no run mends it, what does.
        again: which run mends it, where one does.
        remove: the damaged file that has to go before; None where that does not help.
    """

    text: str
    again: str = ""
    remove: Place | None = None

    @property
    def damage(self) -> bool:
        """Whether something is there that should not be so, rather than lacking yet."""
        return self.remove is not None or not self.again


@dataclass
class Section:
    """One part of the store: what was looked at, and what is wrong with it."""

    name: str
    summary: str = ""
    problems: list[Problem] = field(default_factory=list)


def verify(store: Store, *, deep: bool = False) -> Iterator[Section]:
    """Look at everything that the store holds, part by part.

    Sizes, footers, fingerprints and the ids of all rows are read; `deep` besides decodes everything, compares
    checksums and looks at every value.
    """
    yield _guarded(store, "sequences and records", lambda section: _check_tables(store, section, deep))
    for made in [*store.embeddings.values(), *store.predictions.values()]:
        yield _guarded(
            store, f"{made.main}/{made.name}", lambda section, made=made: _check_set(store, made, section, deep)
        )
    yield _guarded(store, "index", lambda section: _check_index(store, section, deep))
    yield _guarded(store, "annotations", lambda section: _check_annotations(store, section, deep))


def _guarded(store: Store, name: str, check: Callable[[Section], None]) -> Section:
    section = Section(name)
    try:
        check(section)
    except UnreachableError:
        raise  # nothing is known of any file
    except (StoreError, RaypipeError) as error:
        section.problems.append(Problem(str(error)))
    except OSError as error:
        where = error.filename or store.root
        section.problems.append(Problem(f"{where}: cannot be read ({error.strerror}); see its owner and its disk"))
    return section


def _check_tables(store: Store, section: Section, deep: bool) -> None:
    problems = [*check_tables(store, deep), *check_sources(store)]
    section.problems += [Problem(text) for text in problems]
    section.summary = f"{store.num_sequences:,} sequences of {store.num_records:,} records"


def _check_set(store: Store, made: ShardedSet, section: Section, deep: bool) -> None:
    """Every file of a set, and whether each sequence is in it once, or in rejects/."""
    shards = read_plan(store, made)
    again = f"run the same raypipe {command(made)} {store.root} again"
    ends = [0, *(shard.seq_hi for shard in shards)]
    planned = [(shard.number, shard.seq_lo) for shard in shards]
    if planned != list(enumerate(ends[:-1])):
        plan = store.root / section.name / "plan.parquet"
        section.problems.append(Problem(f"{plan}: leaves sequences out or has them twice", again, plan))
        return
    if ends[-1] != store.num_sequences:
        lacking = store.num_sequences - ends[-1]
        section.problems.append(Problem(f"{section.name}: {lacking:,} sequences came since it was made", again))
    for stray in find_strays(store, made, shards):
        section.problems.append(Problem(f"{stray}: belongs to no shard of the plan", again, stray))
    receipts = newest_receipts(store.root, made)
    listed = list_set(store, made)
    rows = failed = 0
    missing = []
    for shard in shards:
        rejected, problem = _read_rejects(store, made, shard, listed)
        files = {folder: part_path(store, made, shard, folder) for folder in made.folders}
        if not all(path.name in listed[folder] for folder, path in files.items()):
            missing.append(shard)
            continue
        stamps = receipts[shard.number].files if shard.number in receipts else {}
        found = [(rejects_path(store, made, shard), problem)] if problem else []
        for folder, path in files.items():
            problem = _check_part(path, made, shard, folder, rejected) or (deep and _check_bytes(path, folder, stamps))
            if problem:
                found.append((path, problem))
        if deep and len(rejected) and not found:
            path = rejects_path(store, made, shard)
            problem = _check_bytes(path, REJECTS, stamps)
            found += [(path, problem)] if problem else []
        section.problems += [Problem(f"{path}: {problem}", again, path) for path, problem in found]
        failed += len(rejected)
        rows += 0 if found else shard.num_sequences - len(rejected)
    if missing:
        listed = f"{len(missing)} of {len(shards)} shards unfinished: {shard_names(missing)}"
        section.problems.append(Problem(f"{section.name}: {listed}", again))
    section.summary = f"{len(shards):,} shards, {rows:,} {participle(made)} and {failed:,} failed"


def _read_rejects(
    store: Store, made: ShardedSet, shard: Shard, listed: Mapping[str, Listing]
) -> tuple[np.ndarray, str | None]:
    """seq_ids of the shard that stand in rejects/, (N,) int64 in order; and what is wrong with their file."""
    path = rejects_path(store, made, shard)
    if path.name not in listed[REJECTS]:
        return np.zeros(0, np.int64), None
    try:
        ids = np.sort(read_parquet(path)["seq_id"].to_numpy().astype(np.int64))
    except UNREADABLE as error:
        return np.zeros(0, np.int64), f"damaged ({_short(error)})"
    fits = len(np.unique(ids)) == len(ids) and np.all((ids >= shard.seq_lo) & (ids < shard.seq_hi))
    return ids, None if fits else "holds sequences twice, or of another shard"


def _check_part(path: Place, made: ShardedSet, shard: Shard, folder: str, rejected: np.ndarray) -> str | None:
    """What is wrong with a shard's file, as far as its footer and its seq_ids tell."""
    expected = np.setdiff1d(np.arange(shard.seq_lo, shard.seq_hi), rejected)
    try:
        with open_parquet(path) as file:
            says = read_footer(file.schema_arrow.metadata)
            should = footer(made, shard, len(expected), len(rejected))
            if says != should:
                differing = [name for name in should if says.get(name) != should[name]]
                return f"is not this shard's, its footer differs in {', '.join(differing) or 'what it says'}"
            if not file.schema_arrow.remove_metadata().equals(_schema(made, folder)):
                return "has other columns than the set"
            ids = file.read(columns=["seq_id"])["seq_id"].to_numpy()
    except UNREADABLE as error:
        return f"damaged ({_short(error)})"
    return None if np.array_equal(ids, expected) else "holds sequences twice, in disorder, or not at all"


def _check_bytes(path: Place, folder: str, stamps: Mapping[str, Stamp]) -> str | None:
    """What is wrong with the content of a shard's file: its checksum, where one is known, and all its values."""
    stamp = stamps.get(folder)
    try:
        if stamp and stamp.sha256 and stamp.bytes == path.stat().st_size and checksum(path)["sha256"] != stamp.sha256:
            return "damaged (its checksum is not that of what was written)"
        with open_parquet(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                if not all(_is_finite(column) for column in batch.columns):
                    return "holds values that are not finite"
    except UNREADABLE as error:
        return f"damaged ({_short(error)})"
    return None


def _is_finite(column: pa.Array) -> bool:
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if not pa.types.is_floating(column.type):
        return True
    return bool(np.isfinite(column.drop_null().to_numpy(zero_copy_only=False)).all())


def _schema(made: ShardedSet, folder: str) -> pa.Schema:
    if isinstance(made, Embedding):
        return (tokens_schema if folder == "tokens" else embeddings_schema)(made.dimension, made.dtype)
    assert isinstance(made, Prediction)
    return predictions_schema(made.task, made.problem, max(1, len(made.labels)), made.dtype)


def _check_index(store: Store, section: Section, deep: bool) -> None:
    info = current_info(store)
    if info is None:
        section.summary = "none"
        return
    section.summary = f"{info.type}, {info.rows:,} vectors, version {info.version}"
    verify_files(store, info, thorough=deep)
    made = store.embeddings.get(info.embeddings)
    if made is None or made.fingerprint != info.fingerprint:
        where = store.root / "index" / info.version
        text = f"{where}: was built from vectors {info.embeddings!r} that the atlas does not have"
        section.problems.append(Problem(f"{text}; build it again: {rebuild(store, info)}"))


def _check_annotations(store: Store, section: Section, deep: bool) -> None:
    file = live_database(store)
    if file is None:
        section.summary = "none"
        return
    try:
        tables = list_tables(store)
        section.summary = ", ".join(table.name for table in tables)
        if deep:
            with duck.new_connection() as connection:
                attach(connection, file)
                for table in tables:
                    name = f"{ALIAS}.main.{duck.identifier(table.name)}"
                    # DuckDB compares the checksum of every block that it reads.
                    duck.run(connection, connection.sql(f"SELECT bit_xor(hash(t)) FROM {name} t").fetchall)
            if (opened := open_rows(store)) is not None:
                opened.check()
    except duckdb.Error as error:
        text = f"{file}: damaged ({duck.first_lines(error)}); remove it and CURRENT beside it, annotate again"
        section.problems.append(Problem(text))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
