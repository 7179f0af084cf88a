"""A process that answers one statement of strangers at a time, seen from the server; see `index.fenced`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from index.channel import packed, receive, send, unpacked
from index.errors import QuestionError
from index.fence_limits import FencedResult, FenceError, Limits, bytes_of, without_paths
from index.functions import Asker, said

_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from index.fence_process import main; main()"
# Beyond its time a statement that does not stop gets so many seconds, before its process ends.
GRACE = 1.0
# A process starts within a second, on a machine that has nothing else to do; that is not the statement's time.
START_SECONDS = 60.0


class Worker:
    """One process.

    Attributes:
        usable: whether it can take a statement: not while it has one, nor where one broke it off.
    """

    def __init__(self, root: str, limits: Limits):
        self._root, self._limits = root, limits
        self._spill = tempfile.mkdtemp(prefix="raypipe-sql-")
        settings: dict[str, Any] = {**asdict(limits), "root": root, "spill": self._spill, "grace": GRACE}
        settings |= {"memory": bytes_of(limits.memory), "spill_size": bytes_of(limits.spill)}
        ours, theirs = socket.socketpair()
        home = str(Path(__file__).resolve().parent.parent)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, home, str(theirs.fileno()), json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the server
            )
        self._channel = Connection(ours.detach())
        self._ready = False
        self.usable = True

    @property
    def alive(self) -> bool:
        """Whether the process is there, as far as is known."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it, and remove what it spilled."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._channel.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def answer(self, sql: str, params: Any, asker: Asker | None) -> FencedResult:
        """See `index.fenced.FencedSql.query`."""
        try:
            json.dumps(params)
        except (TypeError, ValueError) as error:
            raise QuestionError(f"parameters are numbers, texts, true, false, null and lists: {error}") from error
        reply, bodies = self._ask({"sql": sql, "params": params}, asker)
        return FencedResult(unpacked(bodies[0]), reply["truncated"])

    def matching(self, where: str) -> np.ndarray:
        """See `index.fenced.FencedSql.matching_sequences`."""
        _, bodies = self._ask({"where": where}, None)
        return np.frombuffer(bodies[0], np.int64)

    def _ask(self, question: dict[str, Any], asker: Asker | None) -> tuple[dict[str, Any], list[bytes]]:
        """The answer to `question`, if there is one."""
        self.usable = False
        try:
            if not self._ready:
                if not self._channel.poll(START_SECONDS):
                    raise FenceError("the process for SQL does not start; ask again", "unavailable")
                receive(self._channel)
                self._ready = True
            reply, bodies = self._talk(question, asker)
        except (EOFError, ConnectionError) as error:
            if not self._ready:
                raise FenceError(
                    "the process for SQL does not start; the server's log tells more", "internal"
                ) from error
            ended = self._process.wait()
            limits = self._limits
            raise (limits.too_long() if ended == -signal.SIGALRM else limits.too_large()) from error
        self.usable = True
        if reply["is"] == "answer":
            return reply, bodies
        if "limit" in reply:
            raise self._limits.too_long() if reply["limit"] == "time" else self._limits.too_large()
        error = QuestionError(without_paths(reply["message"], self._root))
        error.code = reply["code"]
        raise error

    def _talk(self, question: dict[str, Any], asker: Asker | None) -> tuple[dict[str, Any], list[bytes]]:
        """Ask, and answer what is asked back, until there is an answer."""
        deadline = time.monotonic() + self._limits.seconds
        raised: Exception | None = None
        send(self._channel, question)
        while True:
            if not self._channel.poll(max(0.0, deadline + 2 * GRACE - time.monotonic())):
                raise self._limits.too_long()
            reply, bodies = receive(self._channel)
            if reply["is"] != "ask":
                if reply.get("asker") and raised is not None:
                    self.usable = True
                    raise self._blameless(raised)
                return reply, bodies
            try:
                message, sent = self._asked(asker, reply, bodies, deadline)
            except Exception as error:
                raised = error
                message, sent = {"error": type(error).__name__}, []
            send(self._channel, message, *sent)

    def _asked(
        self, asker: Asker | None, question: dict[str, Any], bodies: list[bytes], deadline: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The reply to what a function asked."""
        what = question["what"]
        if asker is None:
            raise QuestionError(f"{what}() is not answered here")
        if what == "catalog":
            return {}, [packed(asker.catalog(np.frombuffer(bodies[0], np.int64)))]
        texts, size = question["texts"], self._limits.piece
        pieces: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(texts), size):
            if time.monotonic() > deadline:
                raise self._limits.too_long()
            piece = texts[start : start + size]
            if what == "embed":
                pieces.append((asker.embed(piece),))
            else:
                ask = asker.search if what == "search" else asker.neighbors
                pieces.append(ask(piece, question["k"], question["where"]))
        arrays = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        types = [np.float32] if what == "embed" else [np.int64, np.float32]
        sent = [np.ascontiguousarray(array, type_).tobytes() for array, type_ in zip(arrays, types, strict=True)]
        return {"shape": list(arrays[0].shape)}, sent

    def _blameless(self, error: Exception) -> Exception:
        """What the asker raised; where it names folders of the server, another with the same code, without them."""
        text = without_paths(str(error), self._root)
        if text == str(error):
            return error
        told = QuestionError(text)
        told.code = said(error).code
        return told


def _environment() -> dict[str, str]:
    """Of the process: little memory for what it does not use, and no token of the server's own. Those of object stores
    it needs; whatever else stands there, no function that strangers may call reads it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAYPIPE_TOKEN")}
    return {**kept, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
