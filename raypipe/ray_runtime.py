"""The one room that talks to Ray: start or join a cluster, run shards through a pool of actors."""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypipe.errors import RaypipeError
from raypipe.plan import Shard

HOOK = "raypipe.bootstrap.pin"
# A shard that kills its actor is tried again so often, then left out and reported; Ray's own default is for ever.
TASK_RETRIES = 2
RESTARTS_PER_ACTOR = 10
# Receipts are all that travels: the default (a third of the memory) would be taken from the models.
OBJECT_STORE_BYTES = 256 << 20


@contextmanager
def session(address: str | None, num_cpus: int | None = None) -> Iterator[Any]:
    """A connection to Ray: one that exists already, the cluster at `address` or $RAY_ADDRESS, or a Ray of our own.

    Yields:
        The `ray` module. A Ray that this call started or joined is left again at the end.

    Raises:
        RaypipeError: the cluster cannot be reached, or Ray cannot be started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own logger explains itself at length before every run; what matters comes back in receipts and errors.
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        _ensure_token()
        options = {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address=address,
                runtime_env={"worker_process_setup_hook": HOOK},
                logging_level=logging.ERROR,
                log_to_driver=os.environ.get("RAYPIPE_DEBUG") == "1",
                **options,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "here" if address == "local" else f"at {address}"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RaypipeError(
            f"Ray {where}: {first}; check --address and $RAY_ADDRESS, or use --executor inline"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _ensure_token() -> None:
    """A token for Ray's own authentication where its usual place cannot be written (it stays switched on)."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE"):
        return
    home = Path(os.environ.get("HOME", "/"))
    if not (home / ".ray" / "auth_token").exists() and not os.access(home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def cluster_gpus(ray: Any) -> int:
    """GPUs of the whole cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def cluster_cpus(ray: Any) -> int:
    """CPUs of the whole cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def run_shards(
    ray: Any, actor: type, job: Any, shards: list[Shard], *, workers: int, cpus: float, gpus: float
) -> Iterator[dict[str, Any]]:
    """Receipts of `shards`, as they are finished, in any order.

    A task is a shard. One whose actor dies again and again gives no receipt: the caller finds it missing on disk.

    Raises:
        RaypipeError: no actor could be started, or the cluster was lost.
    """
    import ray.data as rd
    from ray.exceptions import RayError

    # Importing ray.data sets its loggers up anew; its remarks on every execution are for developers of Ray.
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    context = rd.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = len(shards)
    rows = [asdict(shard) for shard in shards]
    try:
        with warnings.catch_warnings():
            # max_restarts and max_task_retries can be passed in this way only; deprecated, to go in 2.64.
            warnings.simplefilter("ignore")
            receipts = rd.from_items(rows, override_num_blocks=len(rows)).map_batches(
                actor,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=rd.ActorPoolStrategy(size=workers),
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=RESTARTS_PER_ACTOR,
                max_task_retries=TASK_RETRIES,
            )
            yield from receipts.iter_rows()
    except RayError as error:
        raise RaypipeError(f"Ray gave up: {root_cause(error)}; run the same command again to go on") from error


def root_cause(error: BaseException) -> str:
    """The last line that says anything of a Ray error, whose text is a traceback of tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return (telling or lines or [type(error).__name__])[-1][:500]
