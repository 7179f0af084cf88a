"""The errors of this package: each message says what is wrong and how to mend it."""

from __future__ import annotations


class StoreError(Exception):
    """A store, an index or an annotation database cannot be used as asked.

    Attributes:
        code: one word for the kind of error, for programs.
    """

    code = "unavailable"


class QuestionError(StoreError):
    """What is asked for is not in the store, or is no question: another one may be answered."""

    code = "invalid"


class UnknownRecordError(QuestionError):
    """No record has such an id."""

    code = "not_found"


class NoIndexError(StoreError):
    """No index was built yet."""

    code = "no_index"


class StoreLockedError(StoreError):
    """Another live process is writing to the store."""


class UnreachableError(StoreError):
    """An object store does not answer, or refuses; what stands in it is not known, and nothing is wrong with it."""


class StaleIndexError(StoreError):
    """The index was built from other embeddings than the store holds now."""

    code = "stale"
