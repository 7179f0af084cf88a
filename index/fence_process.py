"""The process that answers the SQL of strangers for a server; see `index.fenced`."""

from __future__ import annotations

import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from index import fence
from index.channel import AskerError, ChannelAsker, packed, receive, send
from index.errors import StoreError
from index.filters import matching_sequences
from index.snapshots import Snapshots
from index.sql import Snapshot
from index.store import Store

# Of memory, beside what DuckDB may take: the process itself, and what DuckDB does not count.
MARGIN = 768 << 20


def main() -> None:
    """Answer until the server goes away. Arguments: a file descriptor, and the settings as JSON."""
    channel, settings = Connection(int(sys.argv[1])), json.loads(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = settings["memory"] + MARGIN
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    asker = ChannelAsker(channel)

    def open_snapshot(store: Store) -> Snapshot:
        return Snapshot(
            store,
            asker,
            memory_limit=f"{settings['memory'] >> 20}MiB",
            threads=settings["threads"],
            spill=Path(settings["spill"]),
            settings={
                "max_execution_time": str(int(settings["seconds"] * 1000)),
                "max_temp_directory_size": f"'{settings['spill_size'] >> 20}MiB'",
            },
        )

    try:
        snapshots = Snapshots(Store.open(settings["root"]), open_snapshot, reread=True)
        while True:
            question, _ = receive(channel)
            # Should DuckDB not stop when its time is over, this process does, and the server sees it.
            signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + settings["grace"])
            message, *bodies = _answer(snapshots, question, settings)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(channel, message, *bodies)
    except (EOFError, OSError):  # the server is gone
        return


def _answer(snapshots: Snapshots, question: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, ...]:
    try:
        with snapshots.reading() as snapshot:
            if "where" in question:
                snapshot.check(lambda connection: fence.check_condition(connection, question["where"], snapshot.tables))
                limit = f"{settings['memory'] >> 20}MiB"
                found = matching_sequences(
                    snapshot.store, question["where"], memory_limit=limit, threads=settings["threads"]
                )
                return {"is": "answer"}, found.astype("int64").tobytes()
            answer = snapshot.answer(
                question["sql"],
                question["params"],
                admit=lambda connection, sql: fence.check(connection, sql, snapshot.tables),
                rows=settings["rows"],
                size=settings["bytes"],
            )
            return {"is": "answer", "truncated": answer.truncated}, packed(answer.table)
    except AskerError:
        return ({"is": "error", "asker": True},)
    except StoreError as error:
        return (_told(error.__cause__) or {"is": "error", "code": error.code, "message": str(error)},)
    except (MemoryError, RecursionError) as error:
        return (_told(error),)


def _told(error: BaseException | None) -> dict[str, Any] | None:
    """How a limit is said."""
    if isinstance(error, duckdb.InterruptException):
        return {"is": "error", "limit": "time"}
    if isinstance(error, (duckdb.OutOfMemoryException, MemoryError, RecursionError, pa.ArrowMemoryError)):
        return {"is": "error", "limit": "memory"}
    return None
