"""The log: one JSON object a line on standard error, and no sequences unless asked for."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, TextIO

from pydantic_core import to_json

LOGGER = logging.getLogger("raypipe.serve")
FLUSH_SECONDS = 0.2
FLUSH_LINES = 500


class JsonLines(logging.Formatter):
    """Each record as one JSON object: time, level, message, and what was given as `extra={"fields": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return to_json(line, serialize_unknown=True).decode()


class Gathered(logging.StreamHandler[TextIO]):
    """Writes many lines at once, by a thread, shortly after they were said; warnings and errors at once.

    A write for every request would have the event loop's thread wait for the others each time.
    """

    def __init__(self, stream: TextIO):
        super().__init__(stream)
        self._lines: list[str] = []
        self._there = threading.Event()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, or write all that are kept."""
        self._lines.append(self.format(record))
        if record.levelno >= logging.WARNING or len(self._lines) >= FLUSH_LINES:
            self.flush()
        elif not self._there.is_set():
            self._there.set()

    def flush(self) -> None:
        """Write all lines that are kept."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("\n".join(lines) + "\n")
                self.stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            return
        finally:
            self.release()

    def _write(self) -> None:
        while True:
            self._there.wait()
            time.sleep(FLUSH_SECONDS)
            self._there.clear()
            self.flush()


def set_up() -> logging.Handler:
    """Let everything that the server says, and uvicorn of it, be JSON lines on standard error."""
    handler = Gathered(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("raypipe.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return handler


def say(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """One line of the log."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, message, extra={"fields": fields}, exc_info=error)
