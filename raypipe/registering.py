"""`raypipe.register`: an atlas in a DuckDB connection of the user's own."""

from __future__ import annotations

import os
from typing import Any

from index.registration import register as register_in
from raypipe import connect
from raypipe.asker import AtlasAsker
from raypipe.client import RemoteAtlas
from raypipe.failures import answering


def register(connection: Any, atlas: Any, *, schema: str | None = None) -> None:
    """See `raypipe.register`."""
    opened = connect(atlas) if isinstance(atlas, str | os.PathLike) else atlas
    with answering():
        if isinstance(opened, RemoteAtlas):
            register_in(connection, None, AtlasAsker(opened, local=False), opened.url, schema)
        else:
            register_in(connection, opened.store, AtlasAsker(opened), str(opened.store.root), schema)
