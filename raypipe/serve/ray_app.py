"""The server on Ray Serve: `build` for `serve deploy`, `application` for `raypipe serve --ray`.

Every replica is the whole application: the same limits, tokens, log and metrics as of one process, which are each
replica's own. With shards the index is searched by Ray actors, of which every replica has its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve

from raypipe.bootstrap import pin
from raypipe.errors import UsageError
from raypipe.serve.running import PRODUCTS_KEPT
from raypipe.serve.settings import ServeSettings

NAME = "raypipe"
# Those that the guard refuses itself, in words of ours.
REFUSED = 64
HEALTH_SECONDS = 5.0


def build(args: dict[str, Any]) -> serve.Application:
    """The application, from the `args` of a deployment file: settings, and `config`, a YAML file with more of them.

    Raises:
        UsageError: they are no settings.
    """
    given = dict(args)
    config = given.pop("config", None)
    if config is not None:
        try:
            read = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"config {config}: cannot be read as YAML ({error})") from error
        given = {**(read or {}), **given}
    try:
        settings = ServeSettings(**given)
    except ValidationError as error:
        raise UsageError(f"settings of the server: {error}") from error
    return application(settings)


def application(settings: ServeSettings) -> serve.Application:
    """The application, to be run by Ray Serve."""
    threads = str(max(1, int(settings.cpus_per_replica)))
    deployment = Server.options(
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_in_flight + REFUSED,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        ray_actor_options={
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": settings.gpus_per_replica,
            # BLAS and OpenMP read it when they are loaded.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, PRODUCTS_KEPT[0]: PRODUCTS_KEPT[1]}},
        },
    )
    return deployment.bind(settings.model_dump())


@serve.deployment(
    name=NAME,
    health_check_period_s=HEALTH_SECONDS,
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)
@serve.ingress()
class Server:
    """A replica."""

    def __init__(self, settings: dict[str, Any]):
        pin()
        self._settings = ServeSettings(**settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, its atlas opened."""
        from raypipe.serve import logs
        from raypipe.serve.app import create_app

        logs.set_up()
        self._app = create_app(self._settings)
        self._app.state.guard.names_requests = False  # Ray Serve does, by the id that it gives with the request
        self._app.state.service.open()
        return self._app

    def check_health(self) -> None:
        """
        Raises:
            RuntimeError: a thread is gone; Ray Serve begins another replica.
        """
        if not self._app.state.service.alive:
            raise RuntimeError("a thread of the server is gone")
