"""The log: one JSON object a line on standard error, and no sequences unless asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("raypipe.serve")


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
        return json.dumps(line, default=str)


def set_up() -> None:
    """Let everything that the server says, and uvicorn of it, be JSON lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("raypipe.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def say(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """One line of the log."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, message, extra={"fields": fields}, exc_info=error)
