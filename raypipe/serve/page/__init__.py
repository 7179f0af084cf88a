"""The page at `/`: plain HTML, CSS and JavaScript modules, read once and served from memory.

It asks the same `/v1` as every other client does, and fetches nothing from anywhere else.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

# No inline script or style, nothing from elsewhere; and nobody may put the page into a frame.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file of the page as it is sent."""

    content: bytes
    type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """The files of the page by name."""
    found = {}
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in TYPES:
            content = path.read_bytes()
            found[path.name] = Asset(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return found


def mount(app: Starlette) -> None:
    """Let `app` answer GET `/` with the page and `/page/NAME` with its files, to anyone: there is no data in them."""

    async def send(request: Request) -> Response:
        asset = assets().get(request.path_params.get("name", "index.html"))
        if asset is None:
            return Response("no such file", status_code=404, media_type="text/plain")
        headers = {**HEADERS, "ETag": asset.etag}
        if request.headers.get("If-None-Match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.type, headers=headers)

    app.add_route("/", send, methods=["GET"], include_in_schema=False)
    app.add_route("/page/{name}", send, methods=["GET"], include_in_schema=False)
