"""Servers in this process, on ports of this machine that are free: of an atlas, or of what a test wants to be said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def served(atlas: str | Path, **settings: Any) -> Iterator[str]:
    """An atlas behind raypipe's own server, in a thread; the address, when it is ready."""
    import uvicorn

    from raypipe.serve.app import create_app
    from raypipe.serve.settings import ServeSettings

    app = create_app(ServeSettings(atlas=str(atlas), **settings))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server does not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def saying(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[tuple[str, list[str]]]:
    """A server that says what `answer` does, which is given the request and its number from 1.

    Yields:
        Its address, and the paths that were asked for so far.
    """
    asked: list[str] = []
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            with counting:
                asked.append(self.path)
                number = len(asked)
            answer(self, number)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """One whole answer; header names are written with _ for -."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
