"""What to say of an atlas whose disk fails: not beside the other errors, which know nothing of stores."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile

from index.places import Place, RemotePath
from raypipe.errors import RaypipeError


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
