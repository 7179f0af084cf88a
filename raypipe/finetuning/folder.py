"""The folder of a result: begun, gone on with, finished; never mixed with another run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from index.files import write_json
from index.lock import writer_lock
from raypipe.disk_errors import disk_error
from raypipe.errors import RaypipeError, UsageError
from raypipe.finetuning.settings import FREE, FinetuneSettings

SETTINGS, METRICS, HISTORY, REJECTS = "settings.json", "metrics.json", "metrics.jsonl", "rejects.tsv"
FOLDER = ".state"
# In that folder, until the run is finished: fingerprints and choices, a finished epoch, what a frozen trunk gives.
ABOUT, EPOCH, STATES, STATES_READY, _DRAFT = (
    "about.json",
    "epoch.safetensors",
    "states.bin",
    "states.json",
    "result",
)
T = TypeVar("T")


class ResultFolder:
    """What `raypipe finetune -o` names.

    Args:
        root: the folder; made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / FOLDER
        self.draft = self.state / _DRAFT

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return (self.root / METRICS).is_file()

    @property
    def begun(self) -> bool:
        """Whether an epoch is finished and kept."""
        return (self.state / EPOCH).is_file()

    @contextmanager
    def opened(self, settings: FinetuneSettings) -> Iterator[None]:
        """Hold the folder for writing.

        Raises:
            UsageError: it holds something else, or a run with other settings.
            StoreError: another process is writing to it.
        """
        self.check(settings)
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.root, error) from error
        with writer_lock(self.state):
            try:
                yield
            finally:
                # Where nothing could be begun, nothing stays behind. Whoever does not hold the lock removes nothing.
                if not (self.root / SETTINGS).is_file():
                    self.clean()
                    if not any(self.root.iterdir()):
                        self.root.rmdir()

    def check(self, settings: FinetuneSettings) -> None:
        """Refuse a folder of something else.

        Raises:
            UsageError: what is in the way; for a setting its name and both values.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: is a file; name a folder with -o")
        if not (self.root / SETTINGS).is_file():
            if self.root.is_dir() and any(path.name not in (FOLDER, REJECTS) for path in self.root.iterdir()):
                raise UsageError(f"{self.root}: holds something else already; name a new folder with -o")
            return
        changed = self._changed(settings)
        # Until an epoch is finished nothing is lost by beginning anew.
        if changed and (self.begun or self.finished):
            name, before, now = changed[0]
            raise UsageError(
                f"{self.root}: was begun with --{name.replace('_', '-')} {_shown(before)}, and now it is "
                f"{_shown(now)}; give the same again, or name another folder with -o"
            )

    def _changed(self, settings: FinetuneSettings) -> list[tuple[str, Any, Any]]:
        """Settings that are not what the run was begun with: name, before, now."""
        known = self.root / SETTINGS
        try:
            before = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RaypipeError(f"{known}: is damaged ({error}); remove {self.root} or name another with -o") from error
        now = settings.resolved()
        names = sorted({*before, *now} - set(FREE))
        return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]

    def begin(self, settings: FinetuneSettings, about: dict[str, str]) -> None:
        """Write down what the run is made of, or see that it still is.

        Args:
            settings: of the run.
            about: what is read, by the option that names it -> its fingerprint.

        Raises:
            UsageError: something has another content than when the run was begun.
        """
        path = self.state / ABOUT
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if self.begun:
                self.compare(before, about)
                return
            if self._changed(settings) or not before.items() >= about.items():
                # What the trunk gave is of other settings or data; no epoch of them is finished.
                for name in (STATES, STATES_READY):
                    (self.state / name).unlink(missing_ok=True)
        try:
            write_json(self.root / SETTINGS, settings.resolved(), self.state)
            write_json(path, about, self.state)
        except OSError as error:
            raise disk_error(self.root, error) from error

    def compare(self, before: dict[str, Any], now: dict[str, str]) -> None:
        """See that what is read is what was read.

        Args:
            before: fingerprints of the run that was begun or finished, by option.
            now: as for `begin`.

        Raises:
            UsageError: something has another content.
        """
        for option, fingerprint in now.items():
            if before.get(option, fingerprint) != fingerprint:
                raise UsageError(
                    f"{self.root}: was begun with another content of {option}; bring that back, or name another "
                    "folder with -o"
                )

    def once(self, name: str, value: T) -> T:
        """What the run chose for `name` when it was begun; `value`, which is written down, if nothing was chosen yet.

        Raises:
            RaypipeError: the disk is full.
        """
        path = self.state / ABOUT
        chosen = json.loads(path.read_text(encoding="utf-8"))
        if name not in chosen:
            try:
                write_json(path, {**chosen, name: value}, self.state)
            except OSError as error:
                raise disk_error(self.root, error) from error
        return chosen.get(name, value)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a folder for everything that the run leaves; it is moved into place when whole, `METRICS` last."""
        try:
            shutil.rmtree(self.draft, ignore_errors=True)
            self.draft.mkdir()
            yield self.draft
            for path in sorted(self.draft.iterdir(), key=lambda path: path.name == METRICS):
                target = self.root / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
        except OSError as error:
            raise disk_error(self.root, error) from error

    def clean(self) -> None:
        """Remove what only a run that goes on needs."""
        shutil.rmtree(self.state, ignore_errors=True)


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)
