"""What every request passes: who asks, how many at a time, how long, under what number; and what is told of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raypipe.serve.faults import CLOSED, Refusal, refusal
from raypipe.serve.logs import say
from raypipe.serve.metrics import Metrics
from raypipe.serve.settings import ServeSettings
from raypipe.serve.tokens import Tokens

# As whoever asks may name a request: nothing that could break a line of a log.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Odd, so that numbers stay different; neighbouring ones do not look alike.
SCATTER = 0x9E3779B97F4A7C15


Endpoint = Callable[[Request], Awaitable[Response]]


class Guard:
    """An ASGI application around another, given to `around`.

    Attributes:
        in_flight: requests being answered, those of /v1 only.
        draining: set it, and readiness is over and no further request is taken.
        direct: endpoints by method and path, that take a request and give a response: they are called without the
            application, whose routing takes longer than a search by id.
        names_requests: whether answers carry their id; something in front of this may do that by itself.
    """

    _app: ASGIApp

    def __init__(self, settings: ServeSettings, metrics: Metrics, tokens: Tokens | None):
        self._settings, self._metrics, self._tokens = settings, metrics, tokens
        self._hosts = {host.lower() for host in settings.hosts}
        self._most = int(settings.max_body_mib * 2**20)
        # A system call for every request would have this thread wait for the others each time.
        self._number = itertools.count(secrets.randbits(64))
        self.in_flight = 0
        self.draining = False
        self.names_requests = True
        self.direct: dict[tuple[str, str], Endpoint] = {}

    def around(self, app: ASGIApp) -> Guard:
        """Guard `app`."""
        self._app = app
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = scope["headers"]
        given = _header(headers, b"x-request-id")
        request_id = given.decode("ascii") if REQUEST_ID.fullmatch(given) else self._new_id()
        noted: dict[str, Any] = {}
        scope["raypipe"] = noted
        status, closing, sent = 0, self.draining, 0

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", request_id.encode())] if self.names_requests else []
                if closing:
                    extra.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        counted = scope["path"].startswith("/v1/")
        self.in_flight += counted
        self._metrics.in_flight.set(self.in_flight)
        error: BaseException | None = None
        try:
            self._admit(scope, headers, counted)
            async with asyncio.timeout(self._settings.request_seconds if counted else None):
                endpoint = self.direct.get((scope["method"], scope["path"]))
                if endpoint is None:
                    await self._app(scope, receive, answer)
                else:
                    response = await endpoint(Request(scope, receive))
                    await response(scope, receive, answer)
        except asyncio.CancelledError:
            status = status or CLOSED
            raise
        except Exception as caught:
            error = caught
            if status == 0:
                refused = refusal(caught, self._settings.atlas)
                noted["code"] = refused.code
                await respond(answer, refused, request_id)
            if refusal(caught, self._settings.atlas).code != "internal":
                error = None
        finally:
            self.in_flight -= counted
            self._metrics.in_flight.set(self.in_flight)
            self._note(scope, request_id, status or CLOSED, time.perf_counter() - begin, sent, noted, error)

    def _new_id(self) -> str:
        """16 hex digits that differ from request to request, and from server to server."""
        return f"{next(self._number) * SCATTER % 2**64:016x}"

    def _admit(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]], counted: bool) -> None:
        """
        Raises:
            Refusal: of who may not ask, or not now.
        """
        if "*" not in self._hosts and _host(_header(headers, b"host")) not in self._hosts:
            raise Refusal(
                "usage",
                "this server is not asked under the name in the Host header",
                "use localhost or 127.0.0.1, or start it with --allowed-hosts",
            )
        path = scope["path"]
        if self._tokens is not None and (counted or path == "/metrics"):
            scheme, _, token = _header(headers, b"authorization").decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not self._tokens.admit(token.strip()):
                raise Refusal(
                    "unauthorized",
                    "this server asks for a token, and got none or another one",
                    "send the header Authorization: Bearer TOKEN; raypipe takes it from $RAYPIPE_TOKEN",
                )
        if not counted:
            return
        if self.draining:
            raise Refusal("unavailable", "the server stops", "ask again: another one, or this one when it is back")
        if self.in_flight > self._settings.max_in_flight:
            raise Refusal("busy", f"{self._settings.max_in_flight} requests are being answered", "ask again")
        length = _header(headers, b"content-length")
        if length.isdigit() and int(length) > self._most:
            raise Refusal("too_large", f"the body has more than {self._most:,} bytes", "send it in parts")

    def _note(
        self,
        scope: Scope,
        request_id: str,
        status: int,
        seconds: float,
        sent: int,
        noted: dict[str, Any],
        error: BaseException | None,
    ) -> None:
        # The pattern, not the path: what is in a path is the client's, and may be a sequence.
        path = scope["path"] if (scope["method"], scope["path"]) in self.direct else "(other)"
        route = getattr(scope.get("route"), "path_format", None) or path
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        fields = {
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "bytes": sent,
            "client": (scope.get("client") or ("",))[0],
            **noted,
        }
        if error is not None:
            # Messages and arguments may quote sequences; where it went wrong does not.
            frames = traceback.extract_tb(error.__traceback__)
            fields["error"] = type(error).__name__
            fields["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
            if self._settings.log_sequences:
                fields["error"] = f"{type(error).__name__}: {error}"
        level = logging.ERROR if error is not None else logging.INFO
        say("request", level=level, **fields)


async def respond(send: Send, refused: Refusal, request_id: str) -> None:
    """Send the answer that says why there is none."""
    body = to_json(refused.body(request_id))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": [*headers, *refused.headers()]})
    await send({"type": "http.response.body", "body": body})


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    for key, value in headers:
        if key == name:
            return value
    return b""


def _host(header: bytes) -> str:
    """The name in a Host header, without the port."""
    text = header.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
