"""Errors of this package. Their messages are for the person at the terminal: what is wrong, where, how to mend it."""

from __future__ import annotations

import os

# What the extras bring: a plain installation reads, and asks servers and SQL, but neither embeds nor searches.
EXTRAS = ("torch", "ray", "safetensors", "huggingface_hub")
INSTALL = "pip install 'raypipe[cpu]' (or 'raypipe[gpu]' with an NVIDIA GPU)"


class RaypipeError(Exception):
    """A command cannot do what was asked."""


class InputError(RaypipeError):
    """An input file cannot be read as sequences; the message names file and line."""


class IncompleteError(RaypipeError):
    """A run ended with work left over; running the same command again goes on from there."""


class UsageError(RaypipeError):
    """The arguments do not fit together."""

    code = "usage"


class AtlasError(RaypipeError):
    """An atlas, here or behind a server, does not answer what it is asked.

    As text it is the message and the hint, and the request where the server is at fault, whose log tells more.

    Attributes:
        message: what is wrong.
        code: one word for the kind of error, for programs: usage, unauthorized, not_found, too_large, invalid, busy,
            stale, no_index, unavailable, timeout, internal, or unreachable where no server answers.
        hint: how to mend it, where the message does not say so itself.
        request_id: by which the server's log tells of it; None of an atlas on this machine.
        status: the server's, of HTTP; None of an atlas on this machine.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "unavailable",
        hint: str | None = None,
        request_id: str | None = None,
        status: int | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.request_id = request_id
        self.status = status

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return f"{text} (request {self.request_id})" if self.request_id and (self.status or 0) >= 500 else text


class AtlasUsageError(AtlasError, UsageError):
    """A server finds that the arguments do not fit together."""


def debugging() -> bool:
    """Whether --debug, or RAYPIPE_DEBUG=1, asks for tracebacks and for all that Ray says."""
    return os.environ.get("RAYPIPE_DEBUG") == "1"


def first_line(error: object) -> str:
    """The first line of an error's text that says anything, else its type: for causes within a message of ours."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
