"""Copies on this machine of those files of a remote store that have to be mapped into memory, or opened by DuckDB.

They lie in `cache_root()/stores/<store>/<kind>/<version>/<content>/<name>`. Only whole copies have that name, so
several processes may make and use them at once. Of one store two versions of a kind are kept, as it keeps two itself.
All of it may be removed at any time: it is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from index.cache import cache_root
from index.errors import StoreError
from index.places import Place, RemotePath, open_stream

CHUNK = 8 << 20
SPARED_SECONDS = 3600
_ORIGINALS: dict[Path, RemotePath] = {}


def fetch(
    root: Place, kind: str, version: str, name: str, *, mend: str, sha256: str | None = None, reread: bool = True
) -> Path:
    """A local path of the file `name`, which is of one version of the index or the annotations.

    Args:
        root: of the store; the file itself where that is local.
        kind: the store's folder: "index" or "annotations". A version is a folder in it, or where `name` is that of the
            version with an ending, the file itself.
        mend: what to do where it is damaged, for the message.
        sha256: of its content, where it is known. Else size and time tell one content from another.
        reread: whether the content of a copy that is there already is compared with it; its size always is.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: what came is not what was asked for, or there is no room for it.
    """
    within = root / kind / name if Path(name).stem == version else root / kind / version / name
    if not isinstance(within, RemotePath):
        return within
    status = within.stat()
    content = (sha256 or f"{status.st_size}-{status.st_mtime_ns}")[:32]
    store = _of_store(root)
    copy = store / kind / version / content / name
    if not _is_whole(copy, status.st_size, sha256 if reread else None):
        try:
            if not _fetch(within, copy, status.st_size, sha256):
                raise StoreError(f"{within}: damaged, it is not what was written; {mend}")
        except FileNotFoundError as error:
            raise StoreError(
                f"{within}: was removed, or its copy here was, while it was fetched: newer versions came; ask again"
            ) from error
        except OSError as error:
            raise StoreError(
                f"{copy.parent}: no copy of {within} can be kept there ({error.strerror or error}); make room, or name "
                f"another folder by RAYPIPE_CACHE"
            ) from error
        if version.isdigit():  # else it is shared by versions; see `keep`
            _remove_older(store / kind, version)
    _ORIGINALS[copy] = within
    return copy


def keep(root: Place, folders: Iterable[str]) -> None:
    """Remove copies of what an index does not need any more.

    Args:
        root: of the store; nothing where that is local.
        folders: that the live index needs, below the store's, such as index/segments/abc; those beside them go.
    """
    if not isinstance(root, RemotePath):
        return
    needed = {_of_store(root) / folder for folder in folders}
    for parent in {folder.parent for folder in needed}:
        for folder in parent.iterdir() if parent.is_dir() else ():
            # Young ones may be of a build that goes on.
            if folder not in needed and time.time() - folder.stat().st_mtime > SPARED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def original(path: Path) -> Place:
    """What a path is a copy of, if it is one; for messages."""
    return _ORIGINALS.get(path, path)


def _of_store(root: Place) -> Path:
    return cache_root() / "stores" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def _is_whole(copy: Path, size: int, sha256: str | None) -> bool:
    if not copy.is_file() or copy.stat().st_size != size:
        return False
    if sha256 is None:
        return True
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _fetch(source: RemotePath, copy: Path, size: int, sha256: str | None) -> bool:
    """Make a copy; whether what came is what was written."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
    digest, fetched = hashlib.sha256(), 0
    try:
        with open_stream(source) as stream, part.open("wb") as file:
            while chunk := source.asked(stream.read, CHUNK):
                digest.update(chunk)
                fetched += file.write(chunk)
        if fetched != size or (sha256 is not None and digest.hexdigest() != sha256):
            return False
        os.replace(part, copy)
        return True
    finally:
        part.unlink(missing_ok=True)


def _remove_older(folder: Path, version: str) -> None:
    """Who still uses an older copy keeps its open file: the system frees it when the last one closes."""
    versions = sorted(path.name for path in folder.iterdir() if path.name.isdigit())
    for name in [each for each in versions if each != version][:-1]:
        shutil.rmtree(folder / name, ignore_errors=True)
