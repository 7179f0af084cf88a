"""The server as replicas on Ray Serve, started from the command line."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raypipe.errors import RaypipeError, UsageError, debugging
from raypipe.interrupts import obeyed
from raypipe.ray_runtime import root_cause, session
from raypipe.serve import logs
from raypipe.serve.running import listening
from raypipe.serve.settings import ServeSettings
from raypipe.serve.tokens import Tokens

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
DRAINING_SECONDS = "2"


def serve(settings: ServeSettings) -> None:
    """Serve by replicas until SIGTERM or Ctrl-C. The address is printed on standard output.

    A Ray that this starts has HAProxy in front of the replicas, which is ten times quicker than Ray Serve's own proxy;
    $RAY_SERVE_ENABLE_HA_PROXY=0 does without. A cluster that exists already has what it was started with.

    Raises:
        UsageError: it would listen beyond this machine without tokens, or the tokens cannot be read.
        StoreError: no atlas.
        RaypipeError: Ray, or the replicas, cannot be started.
    """
    check(settings)
    with tempfile.TemporaryDirectory(prefix="raypipe-serve-") as folder:
        _prepare(Path(folder))
        with session(settings.address) as ray, _replicas(ray, settings) as address:
            print(address, flush=True)
            logs.say("serving", address=address, replicas=settings.replicas, shards=settings.shards)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                obeyed()
                logs.say("draining")
    logs.say("stopped")


def check(settings: ServeSettings) -> None:
    """Say here and now what every replica would fail of.

    Raises:
        UsageError: it would listen beyond this machine without tokens, or the tokens cannot be read.
        StoreError: no atlas.
    """
    from index.store import Store

    if settings.token_file is not None:
        Tokens(settings.token_file)
    elif not settings.local:
        raise UsageError(f"--host {settings.host}: beyond this machine only with tokens; name a file by --token-file")
    Store.open(settings.atlas)


def _prepare(folder: Path) -> None:
    """What Ray Serve reads from the environment when Ray starts and when it is imported."""
    logs.set_up()
    os.environ.setdefault(HAPROXY, "1")
    # What the server is asked only reads, so it may be asked again where a replica died before it answered. HAProxy can
    # do so where it has the whole request, for which it has to wait; Ray Serve has no setting for that, but writes this
    # one into the file as it stands, and what follows a line break is a line of its own there.
    os.environ.setdefault("RAY_SERVE_HAPROXY_RETRY_ON", "conn-failure empty-response\n    option http-buffer-request")
    # A replica that ends waits so long, that whatever is in front of it has seen it: Ray Serve's own half a minute is
    # for load balancers of clouds.
    for name in ("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"):
        os.environ.setdefault(name, DRAINING_SECONDS)
    # Fixed places and ports, of which a machine has one.
    os.environ.setdefault("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", str(folder / "haproxy.cfg"))
    os.environ.setdefault("RAY_SERVE_HAPROXY_SOCKET_PATH", str(folder / "admin.sock"))
    os.environ.setdefault("RAY_SERVE_HAPROXY_SERVER_STATE_BASE", str(folder))
    os.environ.setdefault("RAY_SERVE_HAPROXY_SERVER_STATE_FILE", str(folder / "server-state"))
    for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
        os.environ.setdefault(name, str(_free_port("127.0.0.1")))


@contextmanager
def _replicas(ray: Any, settings: ServeSettings) -> Iterator[str]:
    """Yields the address where they answer; they end with the block.

    Raises:
        UsageError: a Ray Serve that runs already listens beyond this machine, and there are no tokens.
        RaypipeError: they cannot be started.
    """
    from ray import serve
    from ray.exceptions import RayError

    from raypipe.serve.ray_app import NAME, application

    if not debugging():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    before = _standing(serve)
    if before is not None:
        host, port = before
        settings = settings.model_copy(update={"host": host, "port": port})
        if settings.token_file is None and not settings.local:
            raise UsageError(
                f"Ray Serve runs on this cluster already, and listens on {host}: beyond this machine only with tokens; "
                f"name a file by --token-file"
            )
        logs.say("Ray Serve runs already: its own host and port are those of this server")
    port = settings.port or _free_port(settings.host)
    alone = len(ray.nodes()) == 1
    try:
        if before is None:
            serve.start(
                http_options={"host": settings.host, "port": port},
                proxy_location="HeadOnly" if alone else "EveryNode",
                logging_config={"enable_access_log": False, "log_level": "WARNING"},
            )
        serve.run(application(settings), name=NAME, route_prefix="/")
    except (RayError, RuntimeError, ValueError) as error:
        _end(serve, NAME, before is not None)
        raise RaypipeError(f"Ray Serve cannot start the replicas: {root_cause(error)}") from error
    except BaseException:
        _end(serve, NAME, before is not None)
        raise
    try:
        yield f"http://[{settings.host}]:{port}" if ":" in settings.host else f"http://{settings.host}:{port}"
    finally:
        _end(serve, NAME, before is not None)


def _standing(serve: Any) -> tuple[str, int] | None:
    """The host and port of a Ray Serve that runs on the cluster already, if one does: they cannot be changed."""
    from ray.serve.context import _get_global_client

    try:
        if not serve.status().proxies:
            return None
        client = _get_global_client()
    except Exception:
        return None
    assert client is not None, "as there is a status"
    return client.http_config.host or "127.0.0.1", client.http_config.port


def _end(serve: Any, name: str, before: bool) -> None:
    with suppress(Exception):  # it ends anyway, with Ray or by somebody else
        if before:
            serve.delete(name)
        else:
            serve.shutdown()


def _free_port(host: str) -> int:
    with listening(host, 0) as sock:
        return sock.getsockname()[1]
