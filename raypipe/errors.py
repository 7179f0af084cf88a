"""Errors of this package. Their messages are for the person at the terminal: what is wrong, where, how to mend it."""

from __future__ import annotations


class RaypipeError(Exception):
    """A command cannot do what was asked."""


class InputError(RaypipeError):
    """An input file cannot be read as sequences; the message names file and line."""


class IncompleteError(RaypipeError):
    """A run ended with work left over; running the same command again goes on from there."""


class UsageError(RaypipeError):
    """The arguments do not fit together."""
