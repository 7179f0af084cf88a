"""Small things about DuckDB that several files need: quoting, connections, statements that can be stopped, messages."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from index.places import Place, RemotePath

# What DuckDB calls the files of a remote store: not by their own scheme, of which it may think to know something.
REMOTE = "atlas"
T = TypeVar("T")
_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.float16(): "FLOAT",
    pa.bool_(): "BOOLEAN",
}


def literal(text: str | os.PathLike[str]) -> str:
    """`text` as an SQL string."""
    return "'" + os.fspath(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def occurring(names: Iterable[str], text: str) -> list[str]:
    """Those of `names` that the SQL `text` may speak of: they stand in it as words, quoted or not, in either case."""
    return [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]


def escape_glob(path: str | os.PathLike[str]) -> str:
    """`path` as a pattern that matches itself only: DuckDB's readers take every path for a pattern."""
    return "".join(f"[{character}]" if character in "[*?" else character for character in os.fspath(path))


def path_name(path: Place) -> str:
    """What DuckDB calls a file or folder of a store."""
    return f"{REMOTE}://{path.key.lstrip('/')}" if isinstance(path, RemotePath) else os.fspath(path)


def parquet(paths: Iterable[Place], *, filename: bool = False) -> str:
    """A table function call that reads `paths` together; there must be at least one.

    The connection needs `reads` of their store, where that is remote.
    """
    names = ", ".join(literal(escape_glob(path_name(path))) for path in paths)
    return f"read_parquet([{names}]{', filename = true' if filename else ''})"


def type_name(type_: pa.DataType) -> str:
    """DuckDB's name for what it reads a Parquet column of `type_` as.

    Raises:
        KeyError: the store has no columns of this type.
    """
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return f"{type_name(type_.value_type)}[]"
    return _TYPES[type_]


def no_rows(schema: pa.Schema) -> str:
    """A SELECT with the columns of `schema` and no rows."""
    return f"SELECT {_nulls(schema)} WHERE false"


def refusing(schema: pa.Schema, message: str) -> str:
    """A SELECT with the columns of `schema` that fails with `message` where its rows are asked for."""
    return f"SELECT {_nulls(schema)} WHERE error({literal(message)})"


def _nulls(schema: pa.Schema) -> str:
    return ", ".join(f"NULL::{type_name(column.type)} AS {identifier(column.name)}" for column in schema)


@lru_cache(maxsize=1)
def reserved_words() -> frozenset[str]:
    """Words that SQL keeps for itself, in small letters."""
    with new_connection() as connection:
        rows = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        ).fetchall()
    return frozenset(word.lower() for (word,) in rows)


def new_connection(
    memory_limit: str | None = None,
    threads: int | None = None,
    spill: Path | None = None,
    reads: Place | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory database that fetches no extensions and reads no Python variables.

    Args:
        memory_limit: such as "4GB"; beyond it DuckDB spills to disk. Its default is four fifths of the memory.
        threads: at most so many; all cores if None.
        spill: the folder to spill to; one below the system's temporary folder if None.
        reads: root of the store whose files are read; only of remote ones does DuckDB have to know.
    """
    config: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "temp_directory": str(spill or Path(tempfile.gettempdir()) / f"raypipe-duckdb-{os.getpid()}"),
    }
    if memory_limit is not None:
        config["memory_limit"] = memory_limit
    if threads is not None:
        config["threads"] = str(threads)
    connection = duckdb.connect(":memory:", config=config)
    if reads is not None:
        let_read(connection, reads)
    return connection


def let_read(connection: duckdb.DuckDBPyConnection, root: Place) -> None:
    """Tell DuckDB how to read the store at `root`, where it has to know; once for each database."""
    if isinstance(root, RemotePath):
        connection.register_filesystem(_remote_files()(root.filesystem))


def run(connection: duckdb.DuckDBPyConnection, work: Callable[[], T], also: Callable[[], None] | None = None) -> T:
    """What `work` returns, which asks `connection` and nobody else; Ctrl-C stops it, by a call of `also` too.

    Python raises for a signal in the main thread only, and there not before DuckDB returns, which looks for signals at
    few places. So the main thread waits here while another one works; other threads may work themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    answer: Future[T] = Future()

    def fill() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    worker = threading.Thread(target=fill, name="duckdb")
    try:
        worker.start()
        # Not join: an interrupted one takes the thread for ended (Python issue 90882).
        return answer.result()
    finally:
        # More than once, as it may be between two statements. The connection can be closed only when it is over, so a
        # second Ctrl-C changes nothing.
        while worker.ident is not None and not answer.done():
            with suppress(KeyboardInterrupt):
                if also is not None:
                    also()
                connection.interrupt()
                wait([answer], 0.05)


def batches(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: int, params: dict[str, Any] | None = None
) -> Iterator[pa.RecordBatch]:
    """The answer to `sql` as it comes, `rows` at a time; Ctrl-C stops DuckDB at work on the next ones, as in `run`."""
    reader = run(connection, lambda: connection.sql(sql, params=params).to_arrow_reader(rows))
    while (batch := run(connection, partial(next, reader, None))) is not None:
        yield batch


@cache
def _remote_files() -> Any:
    """The class by which DuckDB reads through a file system of pyarrow: it has no access of its own to any server."""
    # Here, not above: most stores are on disks.
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSelector

    class RemoteFiles(ArrowFSWrapper):
        protocol = REMOTE  # type: ignore[assignment]
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(f"{REMOTE}://")

        @cached_property
        def _seen(self) -> dict[str, dict[str, Any]]:
            return {}

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            # DuckDB asks ten times for every file: from one listing of its folder that costs no request.
            name = self._strip_protocol(path)
            if name not in self._seen:
                folder = FileSelector(name.rpartition("/")[0], allow_not_found=True)
                self._seen.update((found.path, self._make_entry(found)) for found in self.fs.get_file_info(folder))
            if name not in self._seen:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return self._seen[name]

        def modified(self, path: str) -> Any:
            return self.info(path)["mtime"]

        def glob(self, path: str, **_: Any) -> list[str]:
            # The patterns here match themselves only, see `escape_glob`.
            name = self._strip_protocol(re.sub(r"\[([\[*?])\]", r"\1", path))
            return [name] if self.exists(name) else []

    return RemoteFiles


def first_lines(error: Exception, count: int = 2) -> str:
    """The telling lines of DuckDB's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^") and not line.startswith("LINE ")]
    return " ".join(lines[:count])
