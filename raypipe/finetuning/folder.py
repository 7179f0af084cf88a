"""The folder of a result: begun, gone on with, finished; never mixed with another run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index.files import write_json
from index.lock import writer_lock
from raypipe.errors import RaypipeError, UsageError, disk_error
from raypipe.finetuning.settings import FREE, FinetuneSettings
from raypipe.finetuning.state import FOLDER

SETTINGS, METRICS, HISTORY, REJECTS, ABOUT = (
    "settings.json",
    "metrics.json",
    "metrics.jsonl",
    "rejects.tsv",
    "about.json",
)
_DRAFT = "result"


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
        try:
            with writer_lock(self.state):
                yield
        finally:
            # Where nothing could be begun, nothing stays behind.
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
        known = self.root / SETTINGS
        if not known.is_file():
            if self.root.is_dir() and any(path.name not in (FOLDER, REJECTS) for path in self.root.iterdir()):
                raise UsageError(f"{self.root}: holds something else already; name a new folder with -o")
            return
        try:
            before = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RaypipeError(f"{known}: is damaged ({error}); remove {self.root} or name another with -o") from error
        now = settings.resolved()
        for name in sorted({*before, *now} - set(FREE)):
            if before.get(name) != now.get(name):
                raise UsageError(
                    f"{self.root}: was begun with --{name.replace('_', '-')} {_shown(before.get(name))}, and now it is "
                    f"{_shown(now.get(name))}; give the same again, or name another folder with -o"
                )

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
            for option, fingerprint in about.items():
                if before.get(option) != fingerprint:
                    raise UsageError(
                        f"{self.root}: was begun with another content of {option}; bring that back, or name another "
                        "folder with -o"
                    )
            return
        try:
            write_json(self.root / SETTINGS, settings.resolved(), self.state)
            write_json(path, about, self.state)
        except OSError as error:
            raise disk_error(self.root, error) from error

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
