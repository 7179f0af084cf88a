"""Errors of this package. Their messages are for the person at the terminal: what is wrong, where, how to mend it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index.places import Place


class RaypipeError(Exception):
    """A command cannot do what was asked."""


class InputError(RaypipeError):
    """An input file cannot be read as sequences; the message names file and line."""


class IncompleteError(RaypipeError):
    """A run ended with work left over; running the same command again goes on from there."""


class UsageError(RaypipeError):
    """The arguments do not fit together."""


def gone(root: str | os.PathLike[str]) -> str:
    """What to say where an atlas stood when the run began."""
    return (
        f"{os.fspath(root)}: the atlas is gone from there, as {socket.gethostname()} sees it (removed, or its disk "
        f"unmounted); bring it back and run the same command again: it goes on where it stopped"
    )


def disk_error(root: Place, error: OSError) -> RaypipeError:
    """An error of the file system below `root`, in words that say what to do.

    Of an atlas in an object store it is one of the temporary files that are put there.
    """
    from index.places import RemotePath  # not above: it must not be the user's own index.py

    if isinstance(root, RemotePath):
        where = tempfile.gettempdir()
        return RaypipeError(
            f"{where}: {error.strerror or error}; files are written there before they are put into {root}: make room, "
            f"or let TMPDIR name another folder, and run the same command again: it goes on where it stopped"
        )
    if error.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.EIO) and not (root / "store.json").is_file():
        return RaypipeError(gone(root))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root).free / 2**20
        return RaypipeError(
            f"{root}: the disk is full ({free:,.0f} MiB free); free some space and run the same command again: "
            f"it goes on where it stopped"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return RaypipeError(f"{root}: cannot be written ({error.strerror}); choose another folder with -o")
    return RaypipeError(f"{root}: {error}; mend that and run the same command again")


def debugging() -> bool:
    """Whether --debug, or RAYPIPE_DEBUG=1, asks for tracebacks and for all that Ray says."""
    return os.environ.get("RAYPIPE_DEBUG") == "1"


def first_line(error: object) -> str:
    """The first line of an error's text that says anything, else its type: for causes within a message of ours."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
