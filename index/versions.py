"""Immutable versions in a folder, and CURRENT, the file that names the live one."""

from __future__ import annotations

from index import files
from index.errors import StoreError
from index.places import Place

CURRENT = "CURRENT"


def current(folder: Place) -> str | None:
    """Name of the live version, or None where nothing is published.

    Raises:
        StoreError: CURRENT is empty or not a version's name.
    """
    file = folder / CURRENT
    try:
        name = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); write the name of a version beside it into it") from error
    if not (len(name) >= 6 and name.isascii() and name.isdigit()):
        raise StoreError(f"{file}: damaged, it holds {name[:40]!r}; write the name of a version beside it into it")
    return name


def following(folder: Place) -> str:
    """A name above every version that stands in `folder`, published or not."""
    taken = [int(name) for name in standing(folder)]
    return f"{max([*taken, int(current(folder) or 0)]) + 1:06d}"


def standing(folder: Place) -> list[str]:
    """The names of all versions in `folder`, published or not."""
    return sorted(name for path in folder.glob("*") if (name := path.name.split(".")[0]).isdigit())


def publish(folder: Place, version: str, root: Place) -> None:
    """Make `version` the live one, and remove all but it and the one before it.

    Readers of a removed version keep their open files: the system frees them when the last one closes.
    """
    previous = current(folder)
    with files.atomic(folder / CURRENT, root) as temporary:
        temporary.write_text(version + "\n", encoding="utf-8")
    kept = {version, previous}
    for path in folder.glob("*"):
        name = path.name.split(".")[0]
        if name.isdigit() and name not in kept:
            files.remove(path)
