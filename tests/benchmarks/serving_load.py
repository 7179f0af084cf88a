"""Load for a server, as a process of its own, which is told by JSON on standard input what to ask.

Plain HTTP/1.1 over asyncio (uvloop), requests made beforehand, one connection for each client, the next request when
the answer is there. An answer is read up to its Content-Length and not parsed: some 30 us of processor each, where
httpx2 takes ten times that, and would measure itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def request(path: str, body: Any, content_type: str = "application/json") -> bytes:
    """A POST of `body`, JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
    )
    return f"{head}\r\n".encode() + content


def load(address: str, requests: Sequence[bytes], clients: int, seconds: float, warm: float = 1.0) -> dict[str, Any]:
    """Ask for so long, by so many clients at a time, each from another place of `requests` on.

    Returns:
        `per_second`, `p50_ms`, `p99_ms`, `max_ms`, `answers`, `statuses` by number, `client_cpu_s` of this load.
    """
    told = {
        "address": address,
        "requests": [each.decode("latin-1") for each in requests],
        "clients": clients,
        "seconds": seconds,
        "warm": warm,
    }
    command = [sys.executable, "-m", "tests.benchmarks.serving_load"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(told), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class Client:
    """One connection."""

    def __init__(self, host: str, port: int):
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, message: bytes) -> int:
        """Send it and read the answer; its status, 0 where the connection broke."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
            assert self._reader is not None
            self._writer.write(message)
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            at = head.find(b"content-length:")
            if at >= 0:
                await self._reader.readexactly(int(head[at + 15 : head.index(b"\r\n", at)]))
            else:
                await self._chunks(self._reader)
            return status
        except (OSError, EOFError, asyncio.IncompleteReadError):
            self._writer = None
            return 0

    async def _chunks(self, reader: asyncio.StreamReader) -> None:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)


async def _run(told: dict[str, Any]) -> dict[str, Any]:
    where = urlsplit(told["address"])
    messages = [each.encode("latin-1") for each in told["requests"]]
    times: list[float] = []
    statuses: dict[int, int] = {}
    begin = time.perf_counter() + told["warm"]
    end = begin + told["seconds"]

    async def client(number: int) -> None:
        connection = Client(where.hostname or "localhost", where.port or 80)
        place = number * len(messages) // told["clients"]
        while (now := time.perf_counter()) < end:
            status = await connection.ask(messages[place % len(messages)])
            place += 1
            if now >= begin:
                times.append(time.perf_counter() - now)
                statuses[status] = statuses.get(status, 0) + 1

    before = time.process_time()
    await asyncio.gather(*(client(number) for number in range(told["clients"])))
    milliseconds = np.array(times) * 1000
    return {
        "per_second": len(times) / told["seconds"],
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "max_ms": float(milliseconds.max()),
        "answers": len(times),
        "statuses": statuses,
        "client_cpu_s": time.process_time() - before,
    }


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(_run(json.load(sys.stdin)))))
