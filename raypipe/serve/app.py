"""The server as an ASGI application: the same for one process and for Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from raypipe.errors import UsageError
from raypipe.serve import documented as docs
from raypipe.serve import page
from raypipe.serve.answers import send_json
from raypipe.serve.faults import Refusal
from raypipe.serve.guard import Guard
from raypipe.serve.metrics import TYPE, Metrics
from raypipe.serve.routes import routes
from raypipe.serve.service import Service
from raypipe.serve.settings import ServeSettings
from raypipe.serve.tokens import Tokens


def create_app(settings: ServeSettings) -> FastAPI:
    """The application; it opens the atlas when it starts, or before by `app.state.service.open()`.

    Its state has the `service`, and the `guard`, which tells how many requests are in flight, and is told to drain.

    Raises:
        UsageError: it would listen beyond this machine without tokens, or the tokens cannot be read.
    """
    tokens = Tokens(settings.token_file) if settings.token_file is not None else None
    if tokens is None and not settings.local:
        raise UsageError(
            f"--host {settings.host}: beyond this machine only with tokens; write one into a file, e.g. by: "
            f"openssl rand -hex 32 > tokens; and name it by --token-file"
        )
    metrics = Metrics()
    service, guard = Service(settings, metrics), Guard(settings, metrics, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.open)
        watching = asyncio.create_task(service.live.watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(service.close)

    # The pages of FastAPI's documentation would load scripts from elsewhere.
    app = docs.Documented(docs_url=None, redoc_url=None, openapi_url="/openapi.json", lifespan=lifespan)
    app.state.service, app.state.guard, app.state.log_sequences = service, guard, settings.log_sequences
    router = routes(settings, service)
    app.include_router(router)
    guard.direct = {
        (method, route.path): route.endpoint
        for route in router.routes
        if isinstance(route, APIRoute) and "{" not in route.path
        for method in route.methods or ()
    }
    _add_probes(app, service, guard, metrics)
    page.mount(app)
    app.add_exception_handler(HTTPException, _say_differently)
    app.add_middleware(guard.around)  # type: ignore[arg-type]
    if settings.cors_origins:
        allowed = ["authorization", "content-type", "accept", "x-request-id"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=allowed,
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _add_probes(app: FastAPI, service: Service, guard: Guard, metrics: Metrics) -> None:
    good: dict[int | str, dict[str, Any]] = {200: {"model": docs.Ready, "description": "Yes."}}

    @app.get("/healthz", summary="Whether the process lives", responses=good)
    async def healthz() -> Response:
        return send_json({"status": "ok"})

    not_now = {503: {"model": docs.Ready, "description": "No: the atlas is gone, or the server stops."}}

    @app.get("/readyz", summary="Whether questions are answered", responses={**good, **not_now})
    async def readyz() -> Response:
        if guard.draining:
            return send_json({"status": "draining"}, 503)
        if not service.alive:
            return send_json({"status": "a thread is gone"}, 503)
        return send_json({"status": "ok"}) if service.live.ready else send_json({"status": "the atlas is gone"}, 503)

    text = {200: {"description": "Prometheus's format.", "content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", summary="Numbers for Prometheus", responses={**text, **docs.errors("unauthorized")})
    async def numbers() -> Response:
        return Response(metrics.text(), headers={"content-type": TYPE})


async def _say_differently(request: Request, error: Exception) -> Response:
    """What Starlette refuses, in the words of the guard."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise Refusal("not_found", "there is nothing under this path", "/openapi.json tells what there is")
    allowed = (error.headers or {}).get("Allow", "")
    raise Refusal("usage", f"{error.detail}; allowed: {allowed}" if allowed else error.detail, status=error.status_code)
