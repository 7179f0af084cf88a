"""What the benchmark of the server runs in processes of its own: servers, and what they are compared with.

`python -m tests.benchmarks.serving_parts NAME ...` runs one of the bare contestants, and prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.search_atlas import ENVIRONMENT, RAYPIPE
from tests.benchmarks.serving_atlas import record
from tests.benchmarks.serving_load import ROOT, request

K = 10
START_SECONDS = 120
HITS = [
    {"query": "q", "rank": n, "id": f"made{n:09d}", "score": 0.9, "length": 24, "description": "", "rna_type": "tRNA"}
    for n in range(1, K + 1)
]


@contextmanager
def server(command: Sequence[str], **environment: str) -> Iterator[tuple[str, int]]:
    """A server that prints its address: address and process id. It is ended by SIGTERM."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def raypipe(atlas: Path, *options: str) -> list[str]:
    """`raypipe serve`."""
    return [*RAYPIPE, "serve", str(atlas), "--port", "0", *options]


def part(name: str, *arguments: str) -> list[str]:
    """One of the contestants below."""
    return [sys.executable, "-m", "tests.benchmarks.serving_parts", name, *arguments]


def measured(name: str, *arguments: str) -> dict[str, Any]:
    """What a contestant prints."""
    done = subprocess.run(part(name, *arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def by_id(rows: int, count: int) -> list[bytes]:
    """Searches by the ids of records."""
    return [request("/v1/search", {"ids": [record(number * 37 % rows)], "k": K}) for number in range(count)]


def by_vector(queries: np.ndarray, *, arrow: bool = False) -> list[bytes]:
    """Searches by vectors (Q, D), one each."""
    if not arrow:
        return [request("/v1/search", {"vectors": [row.tolist()], "k": K}) for row in queries]
    import pyarrow as pa

    made = []
    for row in queries:
        column = pa.FixedSizeListArray.from_arrays(pa.array(row), len(row))
        table = pa.table({"vector": column}).replace_schema_metadata({"raypipe": json.dumps({"k": K})})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        made.append(request("/v1/search", sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream"))
    return made


def by_sequence(sequences: Sequence[str]) -> list[bytes]:
    """Searches by sequences, one each."""
    return [request("/v1/search", {"sequences": sequence, "k": K}) for sequence in sequences]


def resident(pid: int) -> float:
    """MiB of a process and its children."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "status").read_text()
            except OSError:
                continue
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if str(pid) in (folder.name, fields.get("PPid", "").strip()):
                total += int(fields.get("VmRSS", "0").split()[0])
    return total / 1024


def _in_process(atlas: str, queries: str, rows: str, seconds: str) -> None:
    """`Atlas.search` by id and by vector, one thread, as dictionaries."""
    import raypipe as package

    opened = package.connect(atlas)
    vectors = np.load(queries)
    found: dict[str, Any] = {}
    asks = {
        "id": lambda n: opened.search(ids=[record(n * 37 % int(rows))], k=K).to_pylist(),
        "vector": lambda n: opened.search(vectors=vectors[n % len(vectors)][None], k=K).to_pylist(),
    }
    for kind, ask in asks.items():
        for number in range(50):
            ask(number)
        times, end = [], time.perf_counter() + float(seconds)
        while (begin := time.perf_counter()) < end:
            ask(len(times))
            times.append(time.perf_counter() - begin)
        found[kind] = {"p50_ms": float(np.median(times) * 1000), "per_second": len(times) / float(seconds)}
    print(json.dumps(found))


def _encoder(sequences: str, seconds: str) -> None:
    """`Model.embed` of nano on a list, as `raypipe serve` loads it: sequences/s."""
    from model import load

    model = load("nano")
    listed = json.loads(Path(sequences).read_text())
    model.embed(listed[:64])
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < float(seconds):
        some = [listed[(done + place) % len(listed)] for place in range(256)]
        model.embed(some)
        done += len(some)
    print(json.dumps({"per_second": done / (time.perf_counter() - begin)}))


def _trivial() -> None:
    """FastAPI by uvicorn with a handler that reads JSON and answers ten hits that stand ready."""
    import socket

    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.responses import Response

    app = FastAPI()

    @app.post("/v1/search")
    async def search(request: Request) -> Response:
        await request.json()
        return Response(json.dumps({"hits": HITS}), media_type="application/json")

    sock = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.run(sockets=[sock])


if __name__ == "__main__":
    {"in-process": _in_process, "encoder": _encoder, "trivial": _trivial}[sys.argv[1]](*sys.argv[2:])
