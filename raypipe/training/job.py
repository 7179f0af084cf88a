"""What every worker of a run is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raypipe.training.folder import RunFolder
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import Start


class Progress:
    """What a run tells while it goes on; the command line prints it, the default keeps silent."""

    def say(self, message: str) -> None:
        """Anything worth knowing."""

    def begun(self, about: Mapping[str, Any], parameters: int, step: int, steps: int) -> None:
        """Before the first step of this process: the corpus, the model's size, steps done and in all."""

    def line(self, line: dict[str, Any]) -> None:
        """A line of metrics."""


@dataclass(frozen=True)
class Job:
    """One run; small, and the same for every worker.

    Attributes:
        folder: where it lies.
        settings: the recipe.
        start: the model that it begins with.
    """

    folder: RunFolder
    settings: PretrainSettings
    start: Start
