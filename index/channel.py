"""What a server and its process for the SQL of strangers say to each other: JSON, and after it tables and arrays.

The server asks {"sql", "params"}; until the process gives an "answer" or an "error", it may itself "ask" for what the
functions in the statement need. Nothing is pickled: what strangers reach cannot make the server run anything.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa

from index.errors import QuestionError


def send(channel: Connection, message: dict[str, Any], *bodies: bytes) -> None:
    """Send `message`, and bytes that belong to it."""
    channel.send_bytes(json.dumps({**message, "bodies": len(bodies)}).encode())
    for body in bodies:
        channel.send_bytes(body)


def receive(channel: Connection) -> tuple[dict[str, Any], list[bytes]]:
    """What `send` sent.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    message = json.loads(channel.recv_bytes())
    return message, [channel.recv_bytes() for _ in range(message["bodies"])]


def packed(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(body: bytes) -> pa.Table:
    """The table that `packed` packed."""
    return pa.ipc.open_stream(body).read_all()


class ChannelAsker:
    """The asker (`index.functions`) of the process: the server answers."""

    def __init__(self, channel: Connection):
        import threading

        self._channel = channel
        self._one = threading.Lock()

    def search(self, sequences: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """See `index.functions.Asker`."""
        return self._hits("search", sequences, k, where)

    def neighbors(self, ids: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        """See `index.functions.Asker`."""
        return self._hits("neighbors", ids, k, where)

    def embed(self, sequences: list[str]) -> np.ndarray:
        """See `index.functions.Asker`."""
        reply, bodies = self._ask({"what": "embed", "texts": sequences})
        return np.frombuffer(bodies[0], np.float32).reshape(reply["shape"])

    def catalog(self, seq_ids: np.ndarray) -> pa.Table:
        """See `index.functions.Asker`."""
        _, bodies = self._ask({"what": "catalog"}, np.ascontiguousarray(seq_ids, np.int64).tobytes())
        return unpacked(bodies[0])

    def _hits(self, what: str, texts: list[str], k: int, where: str | None) -> tuple[np.ndarray, np.ndarray]:
        reply, bodies = self._ask({"what": what, "texts": texts, "k": k, "where": where})
        shape = reply["shape"]
        return np.frombuffer(bodies[0], np.int64).reshape(shape), np.frombuffer(bodies[1], np.float32).reshape(shape)

    def _ask(self, question: dict[str, Any], *bodies: bytes) -> tuple[dict[str, Any], list[bytes]]:
        with self._one:  # DuckDB's threads ask at the same time
            send(self._channel, {"is": "ask", **question}, *bodies)
            reply, answered = receive(self._channel)
        if "error" in reply:
            raise AskerError(reply["error"])
        return reply, answered


class AskerError(QuestionError):
    """The server could not answer what a function asked."""
