"""Ending a run before its last step, in order: the step at hand is finished and its state written."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Stop:
    """Whether to end after the step at hand: after the first Ctrl-C or SIGTERM, or when the time is over.

    Args:
        minutes: counted from now on; None for no end.
        say: takes a line for the person who waits.
    """

    def __init__(self, minutes: float | None, say: Callable[[str], None]) -> None:
        self._minutes, self._say = minutes, say
        self._end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self._asked = False

    def __call__(self) -> bool:
        return self._asked or time.monotonic() >= self._end

    @property
    def why(self) -> str:
        """In words that begin a message."""
        return "stopped" if self._asked or self._minutes is None else f"stopped when {self._minutes:g} min were over"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM: the first one is kept in mind, the second one raises KeyboardInterrupt at once."""

        def handle(*_: Any) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True
            # Where the signal came in the middle of another line's writing.
            with suppress(RuntimeError):
                self._say("stopping after this step, to go on from there; once more stops at once")

        try:
            before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # only the main thread may set handlers; elsewhere the application owns them
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
