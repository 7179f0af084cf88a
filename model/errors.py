"""What can go wrong in this package, in words for the person at the keyboard."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error this package raises on purpose; its text says how to mend the matter."""


class CheckpointError(ModelError):
    """A checkpoint folder is absent, damaged, of another layout, or does not fit its own config.json."""


class SequenceError(ModelError):
    """One sequence of the input cannot be used.

    Attributes:
        index: position of the sequence in the list that was given, counted from 0.
        position: position of the first bad character in its text, counted from 1; None where the whole is at fault.
        character: the character that stands there, or None.
    """

    def __init__(self, message: str, *, index: int, position: int | None = None, character: str | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.position = position
        self.character = character

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickling calls cls(*args) without the keywords, and actors send errors between processes.
        return (_rebuild, (str(self), self.index, self.position, self.character))


def _rebuild(message: str, index: int, position: int | None, character: str | None) -> SequenceError:
    return SequenceError(message, index=index, position=position, character=character)
