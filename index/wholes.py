"""Folders of an index that stand whole or not at all, and never change: `index/trained/*` and `index/segments/*`.

Each is named after what it was made of, so that a build that was killed finds what it has done.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index import files
from index.errors import StoreError
from index.info import checksum
from index.places import Place, RemotePath

ABOUT = "about.json"
ATTEMPTS = 5


def content_name(*made_of: Any) -> str:
    """A name for what is made of this, which JSON can hold."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def publishing(root: Place, folder: Place, about: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder; what is in it stands as `folder` when the block ends without an error.

    Another process may do the same at once, as when a task that was taken for dead is tried again and goes on after
    all. Then the whole folder that stands first stays, and counts for both. In an object store, where a folder is put
    file by file, this holds if the other began to put its files after this one had put all; else if both made the same
    bytes.

    Args:
        root: of the store.
        about: what `standing` shall give back; when the block ends "checksums" of the files is added to it, or all of
            it is replaced by what another process has published.

    Raises:
        StoreError: others damage or remove the folder all the while.
    """
    temporary = files.scratch(root) / f"{folder.name}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        about["checksums"] = {file.name: checksum(file) for file in sorted(temporary.iterdir())}
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            files.sync(file)
        found = _put(temporary, folder)
        if found is not None:
            about.clear()
            about.update(found)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, folder: Place) -> dict[str, Any] | None:
    """Make `temporary` stand as `folder`, unless a whole one does: then what that one says about itself."""
    if isinstance(folder, RemotePath):  # where nothing keeps a put from going over what is there
        found = standing(folder)
        if found is None:
            files.commit(temporary, folder)
        return found
    for _ in range(ATTEMPTS):
        try:
            files.commit(temporary, folder)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        found = standing(folder)
        if found is not None:
            return found
        _move_away(folder, temporary.with_name(f"{temporary.name}-damaged"))
    raise StoreError(f"{folder}: changes all the while; see what else writes there, and run the same command again")


def _move_away(damaged: Path, aside: Path) -> None:
    """Remove a damaged folder; or put it back, where another process has put a whole one there meanwhile."""
    try:
        os.rename(damaged, aside)
        if standing(aside) is not None:
            os.rename(aside, damaged)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # a third one
            raise
    shutil.rmtree(aside, ignore_errors=True)


def standing(folder: Place) -> dict[str, Any] | None:
    """What `publishing` was told of a folder, if all its files are there and are what they were; else None."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if all(checksum(folder / name) == known for name, known in about["checksums"].items()):
            return about
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None
