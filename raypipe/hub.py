"""Repositories of the Hugging Face hub: taken from this machine's cache or fetched, checked, and pinned to a commit.

Every node has its own cache (HF_HOME) and fetches for itself; huggingface_hub's locks see to it that processes of one
node fetch a file once. Its cache names a file by what the hub says of its content, so a damaged one is found there.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError
from model.files import PICKLE, SAFETENSORS, find_weights
from raypipe import digests
from raypipe.errors import RaypipeError, first_line

# Pickles are fetched only where there is nothing better.
SAFE_FILES = ["*.json", "*.safetensors", "vocab.txt"]
PICKLES = ["*.bin"]
PINNED = re.compile(r"[^/@\s]+/[^/@\s]+@[0-9a-f]{40}")
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, with its configuration and all its weights, on this machine."""

    hub: str
    commit: str
    folder: Path

    @property
    def pinned(self) -> str:
        """What finds the same files again, on any machine: ORG/NAME@COMMIT."""
        return f"{self.hub}@{self.commit}"


def is_pinned(model: str) -> bool:
    """Whether `model` names a repository of the hub at one commit."""
    return PINNED.fullmatch(model) is not None


def tell(message: str) -> None:
    """Say on standard error what takes its time."""
    print(message, file=sys.stderr, flush=True)


def find_snapshot(hub_ids: Sequence[str], revision: str | None, alive: Callable[[], None] = lambda: None) -> Snapshot:
    """The first of some repositories that can be had, from the cache before the network.

    Args:
        hub_ids: as ORG/NAME.
        revision: a branch, a tag or a commit; None for the main branch, as the cache knows it, if it does.
        alive: called now and then while a download makes progress.

    Raises:
        RaypipeError: none of them can be had, or what came is damaged.
    """
    # HTTPError is the base of all errors of the HTTP library, which is not the same one in every version.
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalEntryNotFoundError,
    )

    failures = []
    for offline in (True, False):
        for hub in hub_ids:
            try:
                found = _look(hub, revision, offline, alive)
            except LocalEntryNotFoundError as error:
                failures += [] if offline else [f"{hub}: {first_line(error)}"]
            except (HTTPError, HFValidationError, OSError) as error:
                failures.append(f"{hub}: {first_line(error)}")
            else:
                if found is not None:
                    _check(found)
                    return found
                failures += [] if offline else [f"{hub}: holds no weights"]
    reasons = "; ".join(dict.fromkeys(failures))  # some are the same with and without the network
    raise RaypipeError(
        f"the files of {hub_ids[0]} are neither in the cache nor could they be fetched ({reasons}); "
        f"download them where there is a network (hf download {hub_ids[0]}), then give the folder as --model"
    )


def has_weights(folder: Path, stem: str) -> bool:
    """Whether all weight files of one kind are there: a download that was cut short leaves some."""
    try:
        return find_weights(folder, stem) is not None
    except CheckpointError:
        return False


def _look(hub: str, revision: str | None, offline: bool, alive: Callable[[], None]) -> Snapshot | None:
    """A repository in the cache, or on the network; None where it holds no weights."""
    from huggingface_hub import constants, snapshot_download

    if not offline and not constants.HF_HUB_OFFLINE:
        tell(f"fetching {hub}{f'@{revision}' if revision else ''} from {constants.ENDPOINT}")
    for patterns in (SAFE_FILES, [*SAFE_FILES, *PICKLES]):
        with _watched(Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}" / "blobs", alive):
            folder = Path(snapshot_download(hub, revision=revision, allow_patterns=patterns, local_files_only=offline))
        if (folder / "config.json").is_file() and (has_weights(folder, SAFETENSORS) or has_weights(folder, PICKLE)):
            return Snapshot(hub, folder.name, folder)
        revision = folder.name  # of one commit, should the branch go on meanwhile
    return None


@contextmanager
def _watched(folder: Path, alive: Callable[[], None]) -> Iterator[None]:
    """Call `alive` whenever what lies in `folder` has changed: a download may take hours, and is no standstill."""
    ended = threading.Event()

    before = _sizes(folder)

    def watch() -> None:
        nonlocal before
        while not ended.wait(LOOK_SECONDS):
            if (now := _sizes(folder)) != before:
                before = now
                alive()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    try:
        for entry in os.scandir(folder):
            sizes[entry.name] = entry.stat().st_size
    except OSError:
        pass  # there is none yet, or a file was renamed just now
    return sizes


def _check(snapshot: Snapshot) -> None:
    """Compare files with what the hub says of them; huggingface_hub looks at nothing but their sizes.

    Raises:
        RaypipeError: one is damaged. It is removed, so that it is fetched anew.
    """
    for file in sorted(snapshot.folder.rglob("*")):
        # Where the file system has no links the cache does not say what a file should be.
        if not file.is_symlink() or file.suffix not in (".json", ".safetensors", ".txt", ".bin"):
            continue
        blob = file.parent / os.readlink(file)
        if not _fits(file, blob.name):
            mend = "it was removed from the cache, run the same command again to fetch it"
            try:
                file.unlink()
                blob.unlink(missing_ok=True)
            except OSError:
                mend = f"remove {blob} and run the same command again"
            raise RaypipeError(
                f"{snapshot.pinned}: {file.name} is damaged, its checksum is not the hub's {blob.name[:12]}...; {mend}"
            )


def _fits(file: Path, etag: str) -> bool:
    """Whether a file is what its etag says: the SHA-256 of large files, git's SHA-1 of small ones."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return digests.sha256(file).hex() == etag
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        content = file.read_bytes()
        # Mirrors of the hub give the plain one.
        return etag in (
            hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            hashlib.sha1(content).hexdigest(),
        )
    return True
