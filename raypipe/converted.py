"""Repositories whose files are not ours to read as they are: converted once, into this machine's cache.

GenBio publishes pickles with a vocabulary of its own. They are read with `weights_only=True`, and only where it is
known which row of that vocabulary carries uracil. What stands in the cache is whole: the folder is renamed into place.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from index.cache import cache_root
from model import registry
from model.config import config_layout, read_json
from model.files import PICKLE, SAFETENSORS, find_weights
from raypipe.errors import RaypipeError
from raypipe.hub import Snapshot, has_weights, tell

# To be raised when `model.convert` makes other weights of the same files.
FORM = 1
WAIT_SECONDS = 0.2


def readable(snapshot: Snapshot, alive: Callable[[], None] = lambda: None) -> Path:
    """The folder that `model.load` reads for a snapshot: its own, or its conversion, made where it is missing.

    Args:
        alive: called now and then while another process converts the same.

    Raises:
        RaypipeError: it is in GenBio's layout and nobody knows which row is uracil's, or the cache cannot be written.
        model.errors.ModelError: the files are damaged, of another architecture, or hold more than tensors.
    """
    settings = snapshot.folder / "config.json"
    genbio = config_layout(read_json(settings), str(settings)) == "genbio"
    if not genbio and has_weights(snapshot.folder, SAFETENSORS):
        return snapshot.folder
    entry = registry.recognise(snapshot.hub)
    row = entry.u_row if entry and genbio else None
    if genbio and row not in ("U", "T"):
        raise RaypipeError(_convert_first(snapshot))
    home = cache_root() / "converted" / snapshot.hub.replace("/", "--")
    target = home / "-".join([snapshot.commit, *([row] if row else []), str(FORM)])
    if not target.is_dir():
        with _alone(home, alive):
            if not target.is_dir():
                _convert(snapshot, target)
    return target


def _convert(snapshot: Snapshot, target: Path) -> None:
    """The caller is alone."""
    from model.convert import convert

    for draft in target.parent.glob(f".{target.name}.*"):  # of one that was killed
        shutil.rmtree(draft, ignore_errors=True)
    weights = find_weights(snapshot.folder, SAFETENSORS) or find_weights(snapshot.folder, PICKLE)
    needed = sum(file.stat().st_size for file in weights.files) if weights else 0
    if (free := shutil.disk_usage(target.parent).free) < needed:
        raise RaypipeError(
            f"{target.parent}: {free / 2**30:.1f} GiB are free, and {snapshot.pinned}, which is to be converted there "
            f"once, takes {needed / 2**30:.1f}; free some space, or name another folder with RAYPIPE_CACHE"
        )
    tell(f"converting {snapshot.pinned} once, into {target}")
    for remark in convert(snapshot.folder, target, source=snapshot.pinned):
        tell(remark)


@contextmanager
def _alone(folder: Path, alive: Callable[[], None]) -> Iterator[None]:
    """Hold `folder`, which is made, against other processes; a killed one's hold ends with it.

    Raises:
        RaypipeError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RaypipeError(
            f"{folder}: cannot be written ({error.strerror}); name a folder for converted weights with RAYPIPE_CACHE"
        ) from error
    try:
        while True:
            alive()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(WAIT_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _convert_first(snapshot: Snapshot) -> str:
    """What to type where the user has to choose; the cache's folder names do not say which model it is."""
    target = f"./{snapshot.hub.rpartition('/')[2]}"
    command = f"raypipe model convert {shlex.quote(str(snapshot.folder))} {shlex.quote(target)}"
    return f"{snapshot.hub}: is in GenBio's layout; convert it once, then use it with --model {target}: {command}"
