"""The process that answers the SQL of strangers for a server; see `index.fenced`."""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb

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

    held: list[Snapshots] = []
    try:
        send(channel, {"is": "ready"})
        while True:
            question, _ = receive(channel)
            # Should DuckDB not stop when its time is over, this process does, and the server sees it.
            signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + settings["grace"])
            try:
                if not held:
                    held.append(Snapshots(Store.open(settings["root"]), open_snapshot, reread=True))
                message, *bodies = _answer(held[0], question, settings)
            except AskerError as error:
                message, bodies = {**_told(error), "asker": True}, []
            except (MemoryError, RecursionError):
                message, bodies = {"is": "error", "limit": "memory"}, []
            except StoreError as error:
                message, bodies = _told(error), []
            except Exception:
                traceback.print_exc()
                message, bodies = {"is": "error", "code": "internal", "message": "the server made a mistake"}, []
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(channel, message, *bodies)
    except (EOFError, ConnectionError):  # the server is gone
        return


def _answer(snapshots: Snapshots, question: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, ...]:
    with snapshots.reading() as snapshot:
        if "where" in question:
            where = question["where"]
            snapshot.check(lambda connection: fence.check_condition(connection, where, snapshot.tables))
            limits = {"memory_limit": f"{settings['memory'] >> 20}MiB", "threads": settings["threads"]}
            found = matching_sequences(snapshot.store, where, **limits)
            return {"is": "answer"}, found.astype("int64").tobytes()
        answer = snapshot.answer(
            question["sql"],
            question["params"],
            admit=lambda connection, sql: fence.check(connection, sql, snapshot.tables),
            rows=settings["rows"],
            size=settings["bytes"],
        )
        return {"is": "answer", "truncated": answer.truncated}, packed(answer.table)


def _told(error: StoreError) -> dict[str, Any]:
    """How `error` is said."""
    if isinstance(error.__cause__, duckdb.InterruptException):
        return {"is": "error", "limit": "time"}
    if isinstance(error.__cause__, (duckdb.OutOfMemoryException, MemoryError)):
        return {"is": "error", "limit": "memory"}
    return {"is": "error", "code": error.code, "message": str(error)}
