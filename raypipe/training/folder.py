"""The folder of a run: begun, gone on with, finished; never mixed with another run.

RUN/
  settings.json   as resolved, with inputs and the model's shape; see `raypipe.training.recall`
  config.json     the model's configuration
  atlas/          of inputs that were no atlas
  corpus/         see `raypipe.training.corpus`
  metrics.jsonl   one line each `log_every` steps, and one for every validation
  state/          see `raypipe.training.state`
  curve.png, README.md   what came of it, in a picture and in words
  checkpoint/     the trained model; comes last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index.files import TEMPORARY, write_json
from index.lock import LOCK_FILE, writer_lock
from model.config import AidoRnaConfig
from raypipe.disk_errors import disk_error
from raypipe.errors import InputError, RaypipeError, UsageError
from raypipe.training.state_files import latest_state, step_of

_BEFORE_IT_BEGINS = (LOCK_FILE, TEMPORARY, "atlas")


class RunFolder:
    """What `raypipe pretrain -o` names.

    Args:
        root: the folder; made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.settings_file = self.root / "settings.json"
        self.config_file = self.root / "config.json"
        self.atlas = self.root / "atlas"
        self.corpus = self.root / "corpus"
        self.metrics = self.root / "metrics.jsonl"
        self.states = self.root / "state"
        self.curve = self.root / "curve.png"
        self.card = self.root / "README.md"
        self.checkpoint = self.root / "checkpoint"
        self.temporary = self.root / TEMPORARY

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return (self.checkpoint / "config.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether its sequences are settled; before that, its settings may still change."""
        return (self.corpus / "corpus.json").is_file()

    @property
    def last_step(self) -> int:
        """Of the newest state; 0 if there is none."""
        found = latest_state(self.states)
        return step_of(found) if found else 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder for writing.

        Raises:
            StoreError: another process holds it, or it cannot be written.
            RaypipeError: it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.root, error) from error
        with writer_lock(self.root):
            # Of a writer that was killed.
            shutil.rmtree(self.temporary, ignore_errors=True)
            yield

    def check(self) -> None:
        """Refuse a folder of something else.

        Raises:
            UsageError: what is in the way.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: is a file; name a folder with -o")
        if not self.settings_file.is_file():
            foreign = [path.name for path in self.root.glob("*") if path.name not in _BEFORE_IT_BEGINS]
            if foreign:
                raise UsageError(f"{self.root}: holds something else ({sorted(foreign)[0]}); name a new folder with -o")

    def settings(self) -> dict[str, Any]:
        """As the run was begun with; exactly what stands in the file.

        Raises:
            RaypipeError: no run was begun here, or the file is damaged.
        """
        return _read_json(self.settings_file, "no run of raypipe pretrain was begun there")

    def config(self) -> AidoRnaConfig:
        """Of the model that is trained."""
        return AidoRnaConfig.from_json(_read_json(self.config_file, "no training was begun there"))

    def begin(self, settings: Mapping[str, Any], config: AidoRnaConfig) -> None:
        """Write down what the run is made of. Call under `opened`, after `check`.

        Args:
            settings: as `raypipe.training.recall.Command.resolved` gives them.
            config: of the model.

        Raises:
            RaypipeError: the disk is full.
        """
        try:
            write_json(self.settings_file, settings, self.root)
            write_json(self.config_file, config.to_json(), self.root)
        except OSError as error:
            raise disk_error(self.root, error) from error


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RaypipeError(f"{path.parent}: {missing}; name the folder of a run with -o") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is damaged ({error}); begin again in another folder") from error
