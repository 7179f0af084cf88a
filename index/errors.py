"""The errors of this package: each message says what is wrong and how to mend it."""

from __future__ import annotations


class StoreError(Exception):
    """A store, an index or an annotation database cannot be used as asked."""


class StoreLockedError(StoreError):
    """Another live process is writing to the store."""


class UnreachableError(StoreError):
    """An object store does not answer, or refuses; what stands in it is not known, and nothing is wrong with it."""


class StaleIndexError(StoreError):
    """The index was built from other embeddings than the store holds now."""
