"""Talk to a warm process: one request and one answer at a time, each a line of JSON on its pipes.

So only the one that was asked works, and rounds of several such processes can be interleaved. This end and the other
end stand in one file; neither needs more than the standard library, so that a peer's interpreter runs it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]


class Warm:
    """A process that has said what it is, and waits for requests.

    Args:
        name: for messages.
        command: that starts it.
        environment: set for it beside our own; None takes a variable away.

    Attributes:
        hello: its first line.
    """

    def __init__(self, name: str, command: Sequence[object], environment: Mapping[str, str | None]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
            cwd=ROOT,
        )
        self.hello = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended with code {self._process.wait()}; see above")
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def answers() -> Iterator[TextIO]:
    """Keep the real standard output for answers; whatever libraries print, those in C too, goes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as real:
        os.dup2(2, 1)
        yield real


def serve(hello: dict[str, Any], answer: Callable[[dict[str, Any]], dict[str, Any]], out: TextIO) -> None:
    """Say `hello`, then answer requests until stdin ends."""
    print(json.dumps(hello), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)
