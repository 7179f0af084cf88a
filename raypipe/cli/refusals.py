"""What is said of a command line, a variable or a settings file that cannot be understood."""

from __future__ import annotations

from typing import Any

from cyclopts import Argument, CycloptsError, CycloptsPanel
from pydantic import ValidationError


def panel(error: CycloptsError) -> Any:
    """The message of `error` in a box, as cyclopts draws it; pydantic's complaints in the words of the user."""
    cause = error.__cause__
    if isinstance(cause, ValidationError) and error.argument is not None and error.argument.children:
        return CycloptsPanel("\n".join(dict.fromkeys(_lines(cause, error.argument))))
    return CycloptsPanel(error)


def _lines(cause: ValidationError, settings: Argument) -> list[str]:
    """For each complaint what was given, as it was given, and what is wrong with it."""
    lines = []
    for found in cause.errors(include_url=False):
        # Messages of our own validators are sentences of ours behind this prefix.
        said = found["msg"].removeprefix("Value error, ")
        said = said.replace("Input should", "input should", 1)
        # A complaint of no one field is about several at once, and names them.
        given = _given(settings, found["loc"]) if found["loc"] else ""
        lines.append(f"{given}: {said}" if given else said)
    return lines


def _given(settings: Argument, where: tuple[int | str, ...]) -> str:
    """Such as "--workers 0", "RAYPIPE_EMBED_WORKERS=0" or "FILE.yaml: workers: 0".

    Args:
        settings: the argument that gathers the options of one model.
        where: a field of the model, and what of it.
    """
    field = next((child for child in settings.children_recursive if child.keys[-1:] == where[:1]), None)
    if field is None or not field.tokens:
        return str(where[0])
    tokens = [token for token in field.tokens if token.keys and token.keys == where[1 : 1 + len(token.keys)]]
    tokens = tokens or field.tokens
    name, source = tokens[0].keyword or field.name, tokens[0].source
    value = ",".join(token.value for token in tokens)
    if source == "env":
        return f"{name}={value}"
    return (
        f"{name} {value}".rstrip() if source == "cli" else f"{source}: {name.strip('[]').replace('][', '.')}: {value}"
    )
