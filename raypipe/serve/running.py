"""The server as one process, by uvicorn."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from raypipe.errors import RaypipeError
from raypipe.serve import logs
from raypipe.serve.app import create_app
from raypipe.serve.guard import Guard
from raypipe.serve.settings import ServeSettings
from raypipe.serve.tokens import readable_by_others

# Threads wait for each other's Python so long at most: the default of 5 ms is longer than a search.
SWITCH_SECONDS = 0.0005
KEEP_ALIVE_SECONDS = 75
# oneDNN keeps what it made for the last 1024 shapes, and batches of queries differ in shape: hundreds of MiB, and no
# quicker. Read when torch first multiplies.
PRODUCTS_KEPT = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
AFTER_DRAINING = 2
BACKLOG = 2048  # as uvicorn has it


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are finished. The address is printed on standard output.

    Raises:
        UsageError: see `create_app`.
        StoreError: no atlas, or it is damaged.
        RaypipeError: the port cannot be had.
    """
    os.environ.setdefault(*PRODUCTS_KEPT)
    said = logs.set_up()
    app = create_app(settings)
    guard: Guard = app.state.guard
    with listening(settings.host, settings.port) as sock:
        app.state.service.open()
        sys.setswitchinterval(SWITCH_SECONDS)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            # Whoever asks says so in the connection, not in a header that anyone may write.
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=AFTER_DRAINING,
        )
        host, port = sock.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(address, flush=True)
        logs.say("serving", address=address, atlas=settings.atlas, tokens=settings.token_file is not None)
        if settings.token_file is not None and readable_by_others(settings.token_file):
            logs.say(f"{settings.token_file}: other users of this machine can read it; run: chmod 600 on it")
        try:
            DrainingServer(config, guard, settings.drain_seconds).run(sockets=[sock])
            logs.say("stopped")
        finally:
            said.flush()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at `host` and `port`.

    Raises:
        RaypipeError: it cannot be had.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise RaypipeError(f"--host {host}: {error.strerror or error}; name an address of this machine") from error
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            # Whoever reads the address may ask at once: it waits until the application has started.
            sock.listen(BACKLOG)
        except OSError as error:
            raise RaypipeError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error
        yield sock


class DrainingServer(uvicorn.Server):
    """Goes on listening while requests are in flight, so that readiness can be seen to be over."""

    def __init__(self, config: uvicorn.Config, guard: Guard, seconds: float):
        super().__init__(config)
        self._guard, self._seconds, self._until = guard, seconds, 0.0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C are for the server; the end that they bring is a good one."""
        before: dict[int, Any] = {
            each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first one asks for an orderly end, a second one for the end."""
        if self._guard.draining:
            self.should_exit = self.force_exit = True
            return
        self._guard.draining = True
        self._until = time.monotonic() + self._seconds
        logs.say("draining", in_flight=self._guard.in_flight, signal=signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening."""
        if self._guard.draining and (not self._guard.in_flight or time.monotonic() >= self._until):
            self.should_exit = True
        return await super().on_tick(counter)
