"""What a run is told that goes on: by the command, and for the rest by what the run was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raypipe.errors import UsageError
from raypipe.settings import IngestSettings
from raypipe.training.settings import FREE, FREE_BEFORE_A_STATE, OF_A_NEW_MODEL, OF_ONE_COMMAND, PretrainSettings
from raypipe.training.start import Start

Settings = TypeVar("Settings", bound=BaseModel)

INPUTS, ANNOTATIONS, FINGERPRINT = "inputs", "annotations", "model_fingerprint"
_READING = IngestSettings()


@dataclass(frozen=True)
class Command:
    """What a command says of a run, or what a run is told in all.

    Attributes:
        settings: the recipe; what was not set in it is not said.
        inputs: files and sequences, or an atlas.
        annotations: of the inputs, as NAME=FILE.
        reading: how the inputs are read; what was not set in it is not said.
    """

    settings: PretrainSettings
    inputs: Sequence[str] = ()
    annotations: Sequence[str] = ()
    reading: IngestSettings = _READING

    def resolved(self, start: Start) -> dict[str, Any]:
        """All that a run is made of, as it stands in RUN/settings.json.

        Args:
            start: the model that it begins with.
        """
        found = self.settings.resolved(start.settled) | self.reading.model_dump(mode="json")
        found |= {INPUTS: list(self.inputs), ANNOTATIONS: list(self.annotations)}
        if start.checkpoint is not None:
            found |= {"model": start.checkpoint.asked, FINGERPRINT: start.checkpoint.fingerprint}
        return found


def recall(command: Command, before: Mapping[str, Any], root: Path, *, stepped: bool) -> Command:
    """What a begun run is told in all.

    Args:
        command: that goes on with it.
        before: what stands in its settings.json. A setting that is younger than the run has its default.
        root: the run's folder, for messages.
        stepped: whether it has a state.

    Raises:
        UsageError: the command says something else than the run was begun with; the message names both.
    """
    free = {*FREE, *OF_ONE_COMMAND, *(() if stepped else FREE_BEFORE_A_STATE)}
    for name, now in ((INPUTS, command.inputs), (ANNOTATIONS, command.annotations)):
        if now and list(now) != before.get(name):
            raise _begun_with(root, "INPUT" if name == INPUTS else _option(name), before.get(name), list(now))
    return Command(
        _joined(command.settings, before, root, {*free, "model"}),
        list(before.get(INPUTS) or ()),
        list(before.get(ANNOTATIONS) or ()),
        _joined(command.reading, before, root, free),
    )


def _joined(given: Settings, before: Mapping[str, Any], root: Path, free: set[str]) -> Settings:
    """Settings as they were before, but for those that are given and free."""
    kind = type(given)
    try:
        known = kind.model_validate({name: value for name, value in before.items() if name in kind.model_fields})
        for name in sorted(given.model_fields_set - free):
            was, now = getattr(known, name), getattr(given, name)
            if now != was:
                raise _begun_with(root, _option(name), was, now)
        # The shape of a checkpoint is not said again, or another checkpoint would be refused for its shape.
        follows = OF_A_NEW_MODEL if before.get("model") or "model" in given.model_fields_set else ()
        kept = {name: getattr(known, name) for name in known.model_fields_set if name not in follows}
        return kind.model_validate(kept | {name: getattr(given, name) for name in given.model_fields_set})
    except ValidationError as error:
        what = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        raise UsageError(f"{root}: was begun with settings that do not go on: {what}") from error


def unknown_settings(before: Mapping[str, Any]) -> list[str]:
    """What stands in settings.json and is no setting of this version."""
    known = {*PretrainSettings.model_fields, *IngestSettings.model_fields, INPUTS, ANNOTATIONS, FINGERPRINT}
    return sorted(set(before) - known)


def check_model(start: Start, before: Mapping[str, Any], root: Path) -> None:
    """Refuse another checkpoint than the run began with.

    Raises:
        UsageError: it is another one, or its content has changed.
    """
    was, now = before.get("model"), start.checkpoint and start.checkpoint.asked
    if (start.checkpoint and start.checkpoint.fingerprint) == before.get(FINGERPRINT):
        return
    if was == now:
        raise UsageError(
            f"{root}: was begun with --model {_shown(was)}, whose content has changed since; bring that back to go on, "
            f"or name another folder with -o"
        )
    raise _begun_with(root, "--model", was, now)


def _begun_with(root: Path, option: str, was: Any, now: Any) -> UsageError:
    return UsageError(
        f"{root}: was begun with {option} {_shown(was)}, and now it is {_shown(now)}; leave it out or give the same "
        f"again to go on, or name another folder with -o"
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value)
