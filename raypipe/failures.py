"""Errors of the store and of the model, as the errors of an atlas, wherever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from index.errors import StoreError
from model.errors import ModelError, SequenceError
from raypipe.errors import EXTRAS, INSTALL, AtlasError, RaypipeError, UsageError


@contextmanager
def answering() -> Iterator[None]:
    """What goes wrong in here is an `AtlasError`, as it is of a remote atlas, and still what it was before."""
    try:
        yield
    except (AtlasError, UsageError):
        raise
    except RaypipeError as error:
        raise as_atlas_error(error, "unavailable").with_traceback(error.__traceback__) from error.__cause__
    except StoreError as error:
        raise as_atlas_error(error, error.code).with_traceback(error.__traceback__) from error.__cause__
    except SequenceError as error:  # which takes arguments of its own
        raise AtlasError(str(error), code="invalid") from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise AtlasError(f"{package} is not installed, and this needs it", hint=f"run: {INSTALL}") from error
    except ModelError as error:
        raise as_atlas_error(error, "invalid").with_traceback(error.__traceback__) from error.__cause__


def as_atlas_error(error: Exception, code: str) -> AtlasError:
    """`error` as an `AtlasError` of the same words that is of its own class too."""
    return _both(type(error))(str(error), code=code)


@cache
def _both(kind: type[Exception]) -> type[AtlasError]:
    def reduced(self: AtlasError) -> tuple[object, ...]:
        return as_atlas_error, (kind(self.message), self.code)

    return type(kind.__name__, (AtlasError, kind), {"__doc__": kind.__doc__, "__reduce__": reduced})
