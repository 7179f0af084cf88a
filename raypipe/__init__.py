"""raypipe: embed non-coding RNA with AIDO.RNA, search it, and join the hits with annotations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from raypipe.atlas import Atlas
    from raypipe.client import RemoteAtlas
    from raypipe.errors import AtlasError, RaypipeError, UsageError
    from raypipe.results import Result
    from raypipe.searching import Search

_HOME = {
    "Atlas": "atlas",
    "AtlasError": "errors",
    "RaypipeError": "errors",
    "RemoteAtlas": "client",
    "Result": "results",
    "Search": "searching",
    "UsageError": "errors",
}
__all__ = [
    "Atlas",
    "AtlasError",
    "RaypipeError",
    "RemoteAtlas",
    "Result",
    "Search",
    "UsageError",
    "__version__",
    "connect",
    "connect_async",
    "register",
]
__version__ = "0.1.0"
SERVERS = ("http://", "https://")


def connect(target: Any, token: str | None = None, **options: Any) -> Atlas:
    """Open an atlas for questions.

    Args:
        target: the folder of an atlas, or its URI, such as s3://bucket/atlas, or a server, such as http://host:8000.
        token: of a server that wants one; $RAYPIPE_TOKEN if None.
        options: of `Atlas`, such as shards=4 and address="10.0.0.1:6379", to search on the machines of a Ray cluster;
            of `RemoteAtlas`, such as timeout=30.

    Returns:
        An `Atlas`, which loads the index and the model when a question first needs them, or a `RemoteAtlas`, which asks
        the server. Both are asked by the same calls.

    Raises:
        UsageError: a token where there is no server, or an unknown option.
        AtlasError: `target` is no atlas.
    """
    if is_server(target):
        from raypipe.client import RemoteAtlas

        # Typed as the other one, for those who ask either.
        return cast("Atlas", RemoteAtlas(target, token, **options))
    if token is not None:
        from raypipe.errors import UsageError

        raise UsageError(f"{target}: is no server, so it takes no token; a server is http://... or https://...")
    _pin()
    from raypipe.atlas import Atlas

    return Atlas(target, **options)


async def connect_async(target: Any, token: str | None = None, **options: Any) -> Any:
    """As `connect`, for asyncio: an `AsyncAtlas` or an `AsyncRemoteAtlas`, whose calls are awaited."""
    from raypipe.client import AsyncAtlas, AsyncRemoteAtlas

    if is_server(target):
        return AsyncRemoteAtlas(target, token, **options)
    return AsyncAtlas(connect(target, token, **options))


def register(connection: Any, atlas: Any, *, schema: str | None = None) -> None:
    """Let SQL in a DuckDB connection read and search an atlas.

    It gets views of sequences, records, rejects, embeddings, neighbors (the graph, where there is one), predictions and
    annotation tables, as they are now, and the functions search('GGUC', k := 10, filter := 'taxid = 9606'),
    neighbors('id') and embed(sequence). Called again, it renews them. Cursors of the connection see them too.

    Args:
        connection: of DuckDB; it stays open until it is closed.
        atlas: an atlas, its folder or URI, or a server's address. Of an atlas behind a server there are the functions
            only; its tables are read by `RemoteAtlas.sql`.
        schema: where in the connection's database, such as "rna" for rna.records; by default the present one.

    Raises:
        AtlasError: a name is taken by something else in the connection; give a schema. Or the atlas cannot be read.
    """
    _pin()
    from raypipe.registering import register as register_in

    register_in(connection, atlas, schema=schema)


def is_server(target: Any) -> bool:
    """Whether `target` is the address of a server."""
    return isinstance(target, str) and target.startswith(SERVERS)


def _pin() -> None:
    # Not at import: whoever asks a server only needs neither of the two packages, nor their names taken.
    from raypipe.bootstrap import pin

    pin()


def __getattr__(name: str) -> Any:
    # Lazy, so that `import raypipe` stays quick and loads neither torch nor ray.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Atlas":
        _pin()
    return getattr(import_module(f"raypipe.{_HOME[name]}"), name)
