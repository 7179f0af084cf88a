"""Bearer tokens from a file."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

from raypipe.errors import UsageError
from raypipe.serve.logs import say

SHORTEST = 16
OTHERS = 0o077


class Tokens:
    """The tokens of a file: one a line, comments from # on. A file that changed is read again at the next request.

    What is compared are digests, in constant time, and with all of them whichever fits: neither the time nor the
    number of a token tells anything.
    """

    def __init__(self, file: str | os.PathLike[str]):
        """Read `file`.

        Raises:
            UsageError: it cannot be read, holds no token or a short one.
        """
        self._file, self._wrong = Path(file), ""
        self._state = self._look()
        self._digests = self._read()

    def admit(self, token: str) -> bool:
        """Whether `token` is one of them."""
        self._refresh()
        given = _digest(token)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(given, digest)
        return found

    def _refresh(self) -> None:
        # A file that is gone, empty or half written leaves what was read before.
        try:
            state = self._look()
            if state != self._state:
                self._digests = self._read()
                self._state = state
            self._wrong = ""
        except UsageError as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                say("the tokens that were read before still hold", level=logging.WARNING, why=self._wrong)

    def _look(self) -> tuple[int, int, int]:
        try:
            status = self._file.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> list[bytes]:
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"--token-file {self._file}: no text; write tokens into it, one a line") from error
        except OSError as error:
            raise self._unreadable(error) from error
        tokens = [token for line in lines if (token := line.partition("#")[0].strip())]
        if not tokens:
            raise UsageError(f"--token-file {self._file}: holds no token; write one, e.g. of: openssl rand -hex 32")
        for number, token in enumerate(tokens, 1):
            if len(token) < SHORTEST or not token.isascii() or any(c.isspace() for c in token):
                raise UsageError(
                    f"--token-file {self._file}: token {number} is shorter than {SHORTEST} characters or not plain "
                    f"ASCII; make one by: openssl rand -hex 32"
                )
        return [_digest(token) for token in tokens]

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(f"--token-file {self._file}: cannot be read ({error.strerror})")


def readable_by_others(file: str | os.PathLike[str]) -> bool:
    """Whether other users of this machine can read `file`."""
    return bool(os.stat(file).st_mode & OTHERS)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
