"""End a process that stands still.

A library call that never returns (a GPU that has fallen off its bus, a file server that is gone) holds Python's lock,
so no thread of Python can look after it. `faulthandler` has a thread of its own that needs no lock: when its time is
over it writes where every thread stands and ends the process.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Setting the clock anew takes some 50 microseconds, and forward passes may be that short.
SET_ANEW_SHARE = 0.02


class Watchdog:
    """Ends this process (exit code 1) when there was no progress for `seconds`; 0 never does.

    The time is kept to a fiftieth. There is one such clock in a process.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._file: Any = None
        self._set_at = 0.0

    @contextmanager
    def watching(self, file: Any) -> Iterator[None]:
        """Watch the block; where all threads stand goes into `file`, which has a descriptor and stays open."""
        if not self._seconds:
            yield
            return
        self._file, self._set_at = file, 0.0
        self.progress()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._file = None

    def progress(self) -> None:
        """Something was finished, or begun: the time starts again."""
        now = time.monotonic()
        if self._file is not None and now - self._set_at > SET_ANEW_SHARE * self._seconds:
            self._set_at = now
            faulthandler.dump_traceback_later(self._seconds, file=self._file, exit=True)
