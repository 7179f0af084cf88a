"""Statements that can be stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from index import duck

# No row comes out of it for a minute.
LONG = "SELECT a.range FROM range(100000000) a, range(100) b WHERE a.range * b.range % 7 = 9"


def read(connection: duckdb.DuckDBPyConnection) -> None:
    for _ in duck.batches(connection, LONG, 1000):
        pass


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Several statements, the long one not the first."""

    def work() -> None:
        connection.execute("CREATE TABLE one AS SELECT 1")
        connection.execute(f"CREATE TABLE many AS {LONG}")

    duck.run(connection, work)


@pytest.mark.parametrize("ask", [read, create])
def test_ctrl_c_ends_a_long_statement(ask: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
    def press() -> None:
        """Ctrl-C twice, as people do who have to wait."""
        for after in (1, 0.002):
            time.sleep(after)
            os.kill(os.getpid(), signal.SIGINT)

    def ask_until_pressed() -> None:
        presser = threading.Thread(target=press)
        presser.start()
        try:
            ask(connection)
        finally:
            presser.join()

    with duck.new_connection() as connection:
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask_until_pressed()
        assert time.monotonic() - begun < 15
        assert connection.execute("SELECT 42").fetchall() == [(42,)], "nothing of it is left at work"


def test_answers_and_errors_come_as_they_are() -> None:
    with duck.new_connection() as connection:
        assert duck.run(connection, connection.sql("SELECT 1").fetchall) == [(1,)]
        with pytest.raises(duckdb.CatalogException, match="missing"):
            duck.run(connection, lambda: connection.execute("FROM missing"))
        asked = "SELECT range + $more AS n FROM range(5000) ORDER BY n"
        found = list(duck.batches(connection, asked, 2048, {"more": 1}))
        assert [batch.num_rows for batch in found] == [2048, 2048, 904]
        assert [n for batch in found for n in batch["n"].to_pylist()] == list(range(1, 5001))
        with pytest.raises(duckdb.ConversionException):
            list(duck.batches(connection, "SELECT 'a'::INTEGER", 10))
        # Threads of a server have no Ctrl-C: they work themselves.
        with ThreadPoolExecutor(1) as pool:
            asker = pool.submit(lambda: duck.run(connection, threading.current_thread))
            assert asker.result() in pool._threads
