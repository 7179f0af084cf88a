"""What goes wrong, as the answer that says so: status, code, message, and a hint how to mend it."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from index.errors import StoreError
from index.fence_limits import without_paths
from model.errors import ModelError
from raypipe.errors import RaypipeError, UsageError
from raypipe.serve import batching

RETRY_SECONDS = 1
STATUS = {
    "usage": 400,
    "unauthorized": 401,
    "not_found": 404,
    "no_index": 409,
    "stale": 409,
    "too_large": 413,
    "invalid": 422,
    "busy": 429,
    "internal": 500,
    "unavailable": 503,
    "timeout": 504,
}
CLOSED = 499  # what others call it in logs when the client went away
RETRIED = ("busy", "unavailable")


class Fault(BaseModel):
    """An error."""

    code: str = Field(description=f"One of {', '.join(STATUS)}.", examples=["usage"])
    message: str = Field(description="What is wrong.", examples=["give exactly one of sequences, ids and vectors"])
    hint: str = Field(default="", description="How to mend it, where the message does not say so.", examples=[""])
    request_id: str = Field(description="The request, as in the server's log.", examples=["2f1c9b7a60d3e845"])


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        code: one of STATUS.
        status: of HTTP.
        detail: for the log; the message may quote what was sent.
    """

    def __init__(self, code: str, message: str, hint: str = "", *, status: int | None = None):
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint
        self.status = status or STATUS[code]

    def body(self, request_id: str) -> dict[str, Any]:
        """What is sent."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "request_id": request_id}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Beside those of every answer."""
        if self.code in RETRIED:
            return [(b"retry-after", str(RETRY_SECONDS).encode())]
        if self.code == "unauthorized":
            return [(b"www-authenticate", b"Bearer")]
        return []


def refusal(error: BaseException, atlas: str) -> Refusal:
    """The answer to `error`; code "internal" where nobody thought of it.

    Args:
        atlas: its folder, which is nobody's business outside: messages call it ATLAS.
    """
    found = _refusal(error)
    if not isinstance(error, Refusal):
        found.message = hidden(found.message, atlas)
    return found


def hidden(text: str, atlas: str) -> str:
    """`text` without places on this machine: the folder `atlas`, as it is called or in full, is ATLAS."""
    for root in dict.fromkeys((atlas if "://" in atlas else os.path.abspath(atlas), atlas.rstrip("/") or atlas)):
        text = without_paths(text, root)
    return text


def _refusal(error: BaseException) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ValidationError):
        return Refusal("invalid", _complaints(error), "/openapi.json describes what is asked for")
    if isinstance(error, batching.Full):
        return Refusal("busy", "too much waits already", "ask again, with fewer requests at a time")
    if isinstance(error, batching.Closed):
        return Refusal("unavailable", "the server stops", "ask again")
    if isinstance(error, batching.Exhausted) or batching.out_of_memory(error):
        return Refusal(
            "unavailable",
            "the memory does not suffice for this request",
            "ask with fewer or shorter sequences, or later",
        )
    if isinstance(error, asyncio.TimeoutError):
        return Refusal("timeout", "the answer took too long", "ask for less at a time")
    code = getattr(error, "code", None)
    if isinstance(error, (RaypipeError, StoreError)) and isinstance(code, str) and code in STATUS:
        return Refusal(code, str(error), getattr(error, "hint", None) or "")
    if isinstance(error, UsageError):
        return Refusal("usage", str(error))
    if isinstance(error, ModelError):
        return Refusal("invalid", str(error))
    if isinstance(error, (RaypipeError, StoreError)):
        return Refusal("unavailable", str(error))
    return Refusal("internal", "the server made a mistake; its log tells more", "report it with the request id")


def _complaints(error: ValidationError) -> str:
    """What pydantic found, without what was sent."""
    found = []
    for complaint in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        # Without the names that pydantic gives to kinds of values.
        where = ".".join(str(part) for part in complaint["loc"] if not re.search(r"[\[(]|^(str|list|dict)$", str(part)))
        said = complaint["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {said}" if where else said)
    return "; ".join(found)
