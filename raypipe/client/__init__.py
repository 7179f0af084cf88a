"""Ask a server for an atlas, as one on this machine is asked; needs neither torch nor ray nor our other packages."""

from __future__ import annotations

from raypipe.client.asynchronous import AsyncAtlas, AsyncRemoteAtlas
from raypipe.client.remote import RemoteAtlas

__all__ = ["AsyncAtlas", "AsyncRemoteAtlas", "RemoteAtlas"]
