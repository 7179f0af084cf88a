"""Folders of an index that stand whole or not at all, and never change: `index/trained/*` and `index/segments/*`.

Each is named after what it was made of, so that a build that was killed finds what it has done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index import files
from index.info import checksum
from index.places import Place

ABOUT = "about.json"


def content_name(*made_of: Any) -> str:
    """A name for what is made of this, which JSON can hold."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def publishing(root: Place, folder: Place, about: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder; what is in it stands as `folder` when the block ends without an error.

    Args:
        root: of the store.
        about: what `standing` shall give back; "checksums" of the files is added to it, when the block ends.
    """
    temporary = files.scratch(root) / f"{folder.name}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        about["checksums"] = {file.name: checksum(file) for file in sorted(temporary.iterdir())}
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            files.sync(file)
        if folder.is_dir():  # damaged, or in an object store put in part
            files.remove(folder)
        files.commit(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def standing(folder: Place) -> dict[str, Any] | None:
    """What `publishing` was told of a folder, if all its files are there and are what they were; else None."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if all(checksum(folder / name) == known for name, known in about["checksums"].items()):
            return about
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None
