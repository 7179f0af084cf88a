"""raypipe: embed non-coding RNA with AIDO.RNA, search it, and join the hits with annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raypipe.client import Atlas, Result

__all__ = ["Atlas", "Result", "__version__", "connect"]
__version__ = "0.1.0"


def connect(target: Any, **options: Any) -> Atlas:
    """Open an atlas for questions.

    Args:
        target: the folder of an atlas, or its URI, such as s3://bucket/atlas.
        options: of `Atlas`, such as shards=4 and address="10.0.0.1:6379", to search on the machines of a Ray cluster.

    Returns:
        The atlas; it loads the index and the model when a question first needs them.

    Raises:
        index.errors.StoreError: `target` is no atlas.
    """
    _pin()
    from raypipe.client import Atlas

    return Atlas(target, **options)


def _pin() -> None:
    # Not at import: whoever asks a server only needs neither of the two packages, nor their names taken.
    from raypipe.bootstrap import pin

    pin()


def __getattr__(name: str) -> Any:
    # Lazy, so that `import raypipe` stays quick and loads neither torch nor ray.
    if name in {"Atlas", "Result"}:
        _pin()
        from raypipe import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
