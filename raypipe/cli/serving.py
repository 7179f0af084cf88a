"""The verb that serves an atlas: serve."""

from __future__ import annotations

from raypipe.cli.making import AtlasPath
from raypipe.errors import RaypipeError, UsageError
from raypipe.serve.settings import ServeOptions, ServeSettings

SERVING = ServeOptions()
PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "starlette", "threadpoolctl")


def serve(atlas: AtlasPath, *, settings: ServeOptions = SERVING) -> None:
    """Answer questions about an atlas over HTTP: search, vectors, predictions, records, SQL, and a page at /.

    The address is printed on standard output, the log on standard error, one JSON object a line. On SIGTERM and Ctrl-C
    requests in flight are finished.
    """
    chosen = ServeSettings(atlas=atlas, **settings.model_dump())
    if not settings.ray and (settings.replicas > 1):
        raise UsageError("--replicas: one process is one replica; more are for --ray")
    try:
        if settings.ray:
            from raypipe.serve.cluster import serve as run
        else:
            from raypipe.serve.running import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise RaypipeError(
            f"{error.name} is not installed, and this needs it; run: pip install 'raypipe[serve]'"
        ) from error
    run(chosen)
