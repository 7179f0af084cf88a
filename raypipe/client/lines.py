"""Requests over HTTP: connections that are reused, time-outs, and asking again where that may help.

All calls only read, so each may be sent again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import tenacity

from raypipe import __version__
from raypipe.client.calls import Call
from raypipe.client.replies import Reply
from raypipe.errors import AtlasError, UsageError

TOKEN = "RAYPIPE_TOKEN"
RETRIED = (429, 503)
CONNECT_SECONDS = 10.0
# The n-th pause: 0.2 s, doubled each time, up to 10 s, and up to as much again at random, so that many do not come
# back at once. A server that asks for longer than the patience is not waited for.
FIRST_PAUSE, LONGEST_PAUSE, PATIENCE_SECONDS = 0.2, 10.0, 60.0


class _Refused(Exception):
    """An answer that may be another one later."""

    def __init__(self, reply: Reply):
        super().__init__(reply.status)
        self.reply = reply


class _Lines:
    """What both kinds of lines have."""

    def __init__(self, url: str, token: str | None, timeout: float, retries: int, verify: Any):
        if timeout <= 0 or retries < 0:
            raise UsageError(f"timeout {timeout}, retries {retries}: give seconds above 0, and a number from 0 on")
        self.url = _checked(url)
        headers = {"user-agent": f"raypipe/{__version__}"}
        token = (os.environ.get(TOKEN) if token is None else token) or None
        if token is not None:
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise UsageError(f"the token (or ${TOKEN}) holds blanks or other letters than a token can have")
            headers["authorization"] = f"Bearer {token}"
        self._timeout, self._retries = timeout, retries
        self._options: dict[str, Any] = {
            "headers": headers,
            "timeout": httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            "limits": httpx2.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=60.0),
            "verify": verify,
        }

    def _again(self) -> dict[str, Any]:
        """When to ask again, for tenacity."""
        return {
            "stop": tenacity.stop_after_attempt(self._retries + 1),
            "wait": _pause,
            "retry": tenacity.retry_if_exception(_may_help),
            "reraise": True,
        }

    def _request(self, call: Call) -> dict[str, Any]:
        headers = {"accept": call.accept}
        if call.body:
            headers["content-type"] = call.content_type
        body = call.body or None
        return {"method": call.method, "url": self.url + call.path, "headers": headers, "content": body}

    def _reply(self, response: httpx2.Response) -> Reply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        reply = Reply(response.status_code, headers, response.content, self.url)
        if reply.status in RETRIED:
            raise _Refused(reply)
        return reply

    def _failure(self, error: Exception) -> AtlasError:
        if isinstance(error, _Refused):
            return error.reply.error()
        if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
            return AtlasError(
                f"{self.url}: no answer within {self._timeout:g} s",
                code="timeout",
                hint="ask for less at a time, or connect with a longer timeout",
            )
        return AtlasError(
            f"{self.url}: cannot be reached ({str(error) or type(error).__name__})",
            code="unreachable",
            hint="is the server running there (raypipe serve), and the address right?",
        )

    @staticmethod
    def _read(call: Call, reply: Reply) -> Any:
        if not reply.ok:
            raise reply.error()
        return call.read(reply)


class Line(_Lines):
    """Connections to one server. Safe to use from several threads."""

    def __init__(self, url: str, token: str | None, *, timeout: float, retries: int, verify: Any):
        super().__init__(url, token, timeout, retries, verify)
        self._client = httpx2.Client(**self._options)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def ask(self, call: Call) -> Any:
        """What the server answers, read.

        Raises:
            AtlasError: the server's own, or it cannot be reached, or does not answer in time.
        """
        try:
            for attempt in tenacity.Retrying(**self._again()):
                with attempt:
                    reply = self._reply(self._client.request(**self._request(call)))
        except (_Refused, httpx2.HTTPError) as error:
            raise self._failure(error) from error
        return self._read(call, reply)


class AsyncLine(_Lines):
    """As `Line`, for asyncio."""

    def __init__(self, url: str, token: str | None, *, timeout: float, retries: int, verify: Any):
        super().__init__(url, token, timeout, retries, verify)
        self._client = httpx2.AsyncClient(**self._options)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def ask(self, call: Call) -> Any:
        """As `Line.ask`."""
        try:
            async for attempt in tenacity.AsyncRetrying(**self._again()):
                with attempt:
                    reply = self._reply(await self._client.request(**self._request(call)))
        except (_Refused, httpx2.HTTPError) as error:
            raise self._failure(error) from error
        return self._read(call, reply)


def _checked(url: str) -> str:
    """The address of a server, without a slash at its end.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(url)
        port, fine = parts.port, bool(parts.hostname) and parts.scheme in ("http", "https")
    except ValueError as error:
        raise UsageError(f"{url}: no address of a server ({error}); give one such as http://host:8000") from error
    if not fine or port == 0 or parts.query or parts.fragment:
        raise UsageError(f"{url}: no address of a server; give one such as http://host:8000")
    if parts.username or parts.password:
        raise UsageError(f"http://...@{parts.hostname}: give a token by token=, or ${TOKEN}, not in the address")
    return url.rstrip("/")


def _may_help(error: BaseException) -> bool:
    """Whether to ask again: not after a long wait for an answer, which would be as long again."""
    if isinstance(error, _Refused):
        return (_asked_for(error.reply) or 0) <= PATIENCE_SECONDS
    connection = httpx2.NetworkError | httpx2.RemoteProtocolError | httpx2.ConnectTimeout
    return isinstance(error, connection)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    least = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (state.attempt_number - 1))
    asked = _asked_for(error.reply) if isinstance(error, _Refused) else None
    return least * (1 + random.random()) if asked is None else asked + least * random.random()


def _asked_for(reply: Reply, now: Callable[[], float] = time.time) -> float | None:
    """Seconds of Retry-After, which is a number or a date."""
    text = reply.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except ValueError:
        return None
