"""The one room that talks to Ray: start or join a cluster, run shards through a pool of actors."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raypipe import __version__
from raypipe.errors import IncompleteError, RaypipeError, debugging
from raypipe.interrupts import held
from raypipe.plan import Task

HOOK = "raypipe.bootstrap.pin"
# A shard that kills its actor is tried again so often. This is for what the actors' journals (raypipe.attempts) do not
# see, deaths of the process before it has the shard; the journals end it sooner. Ray's own default is for ever.
TASK_RETRIES = 100
# One that is computed, and the next, whose sequences are read meanwhile. It may wait there for a whole shard's time at
# the end of a run while another actor has nothing to do: more of them would be a loss.
TASKS_PER_ACTOR = 2
# So many shards may be left out before the run stops: more are not bad sequences, but a machine that cannot work.
LOST_SHARDS = 4
LOST_SHARE = 0.02
# An actor does nothing when it starts, so it cannot fail there for ever; and a pool whose actors have used up their
# restarts waits for ever (ray issue 62746). What ends a run is the number of lost shards.
RESTARTS_PER_ACTOR = -1
DEATH_HINT = "most likely the memory does not suffice: try fewer --workers or a smaller --max-tokens"
CONNECT_SECONDS = 5.0
WORKER_START_SECONDS = 120.0
# Without a finished shard; Ray's own half an hour is short for a large model on one CPU.
STALL_SECONDS = 2 * 3600
# Receipts are all that travels: the default (a third of the memory) would be taken from the models.
OBJECT_STORE_BYTES = 256 << 20


@dataclass(frozen=True)
class Pool:
    """The workers of a run.

    Attributes:
        workers: to begin with, and never fewer.
        most: that there may be as nodes are added to the cluster.
        cpus, gpus: that each of them reserves.
    """

    workers: int
    most: int
    cpus: float
    gpus: float


@contextmanager
def session(address: str | None) -> Iterator[Any]:
    """A connection to Ray: one that exists already, the cluster at `address` or $RAY_ADDRESS, or a Ray of our own.

    Yields:
        The `ray` module. A Ray that this call started or joined is left again at the end.

    Raises:
        RaypipeError: the cluster cannot be reached, or Ray cannot be started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not debugging():
        # Ray prints what its daemons report (tracebacks of tasks that are tried again) on our standard output.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    # Ray's own logger explains itself at length before every run; what matters comes back in receipts and errors.
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    # A Ray of our own that is broken off while it starts or ends leaves processes behind.
    whole = held if address == "local" else nullcontext
    try:
        with whole():
            _connect(ray, address)
        _probe(ray)
        yield ray
    finally:
        with whole():
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Start a Ray here (`local`) or join the one at `address`."""
    from ray.exceptions import RayError

    local = address == "local"
    options: dict[str, Any] = {}
    if local:
        _ensure_token()
        options = {
            "num_cpus": _allowed_cpus(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        knock(address)
        with warnings.catch_warnings(), nullcontext() if local else _unheard():
            warnings.simplefilter("ignore")
            ray.init(
                address=address,
                runtime_env={"worker_process_setup_hook": HOOK},
                logging_level=logging.ERROR,
                log_to_driver=debugging(),
                **options,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise _no_ray(address, error) from error
    except SystemExit as stop:  # of Ray's own SIGTERM handler, which stands from within ray.init
        raise KeyboardInterrupt from stop
    if on_sigterm is not None and threading.current_thread() is threading.main_thread():
        # Ray's leaves without a word, and before our files and locks are put away.
        signal.signal(signal.SIGTERM, on_sigterm)


def _no_ray(address: str, error: Exception) -> RaypipeError:
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    local = address == "local"
    where = "here" if local else f"at {address}"
    token = "" if local else ", that $RAY_AUTH_TOKEN or ~/.ray/auth_token is the cluster's token"
    return RaypipeError(f"Ray {where}: {cause}; check --address and $RAY_ADDRESS{token}, or use --executor inline")


def reachable(address: str) -> None:
    """Look early whether anything listens at `address`, where that can be told; `session` joins it later.

    Raises:
        RaypipeError: nothing does.
    """
    try:
        knock(address)
    except OSError as error:
        raise _no_ray(address, error) from error


def knock(address: str) -> None:
    """Fail at once where nothing listens: Ray itself tries for minutes.

    Raises:
        OSError: no connection to the host and port of `address`.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS).close()


def _allowed_cpus() -> int | None:
    """CPUs where this process is bound to some (taskset, a batch system): Ray heeds a container's limits, not these."""
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or 1) else None


def _ensure_token() -> None:
    """A token for Ray's own authentication where its usual place cannot be written (it stays switched on)."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE"):
        return
    home = Path(os.environ.get("HOME", "/"))
    if not (home / ".ray" / "auth_token").exists() and not os.access(home, os.W_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def may_grow(ray: Any, address: str | None) -> bool:
    """Whether nodes may be added while a run goes on: to a cluster that exists already, not to a Ray of our own."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local" or len(ray.nodes()) > 1


def cluster_gpus(ray: Any) -> int:
    """GPUs of the whole cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def cluster_cpus(ray: Any) -> int:
    """CPUs of the whole cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def run_shards(ray: Any, actor: type, job: Any, tasks: Sequence[Task], pool: Pool) -> Generator[dict[str, Any]]:
    """Receipts of `tasks`, as they are finished, in any order.

    Args:
        actor: the class of the workers; `job` is what they are told.

    A task whose actor dies before it begins, again and again, gives no receipt: the caller finds it missing on disk.

    Raises:
        IncompleteError: too many shards were lost, or the cluster was.
    """
    import ray.data as rd
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import OutOfMemoryError, RayActorError, RayError

    rows = [asdict(task) for task in tasks]
    may_lose = max(LOST_SHARDS, int(LOST_SHARE * len(tasks)))
    try:
        with warnings.catch_warnings():
            # max_restarts and max_task_retries can be passed in this way only; deprecated, to go in 2.64.
            warnings.simplefilter("ignore")
            receipts = rd.from_items(rows, override_num_blocks=len(rows)).map_batches(
                actor,
                fn_constructor_args=(job,),
                batch_size=1,
                # Never fewer than there were: a worker that waits for its next task is not to load its model again.
                compute=rd.ActorPoolStrategy(
                    min_size=pool.workers,
                    max_size=pool.most,
                    max_tasks_in_flight_per_actor=TASKS_PER_ACTOR,
                    max_concurrent_calls_per_actor=TASKS_PER_ACTOR,
                    enable_true_multi_threading=True,
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                max_restarts=RESTARTS_PER_ACTOR,
                max_task_retries=TASK_RETRIES,
            )
            context = receipts.context
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            context.execution_no_progress_timeout_s = STALL_SECONDS
            context.max_errored_blocks = may_lose
            # All are at work: by default the pool grows when more tasks wait at its workers than these do at a time.
            context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
            lost = 0
            with data_log_in_file_only():
                for receipt in receipts.iter_rows():
                    yield receipt
                    lost += receipt["lost"]
                    if lost > may_lose:
                        raise _too_many(may_lose)
    except RayError as error:
        if isinstance(error, (RayActorError, OutOfMemoryError)) and not getattr(error, "actor_init_failed", False):
            raise _too_many(may_lose) from error
        reason = f"Ray gave up: {root_cause(error)}"
        raise IncompleteError(f"stopped: {reason}; run the same command again to go on") from error
    except ExecutionTimeoutError as error:
        raise IncompleteError(
            f"stopped: no shard was finished within {STALL_SECONDS // 3600} hours; run the same command again to go "
            f"on, or make shards smaller: --shard-tokens with a new --name"
        ) from error


def _probe(ray: Any) -> None:
    """Let one actor start before all others: does raypipe run on Ray's workers?

    Ray would start workers that cannot import it again and again. Besides, this one draws upon itself, unheard, what
    Ray's C++ side writes once in every process that uses Ray Data, as an error: that an actor which may be restarted
    has arguments in the object store (ray issue 53727).

    Raises:
        RaypipeError: no worker starts, or it runs another version.
    """
    from ray.exceptions import GetTimeoutError, RayError

    @ray.remote(num_cpus=0, max_restarts=1)
    class Probe:
        def __init__(self, argument: Any):
            pass

        def version(self) -> str:
            from raypipe import __version__

            return __version__

    argument = ray.put(None)
    with _unheard():
        probe = Probe.remote(argument)
    try:
        version = ray.get(probe.version.remote(), timeout=WORKER_START_SECONDS)
    except GetTimeoutError as error:
        raise RaypipeError(f"Ray has not started a worker within {WORKER_START_SECONDS} s; see its logs") from error
    except RayError as error:
        raise RaypipeError(
            f"Ray's workers cannot run raypipe: {root_cause(error)}; install the same raypipe on every machine"
        ) from error
    if version != __version__:
        raise RaypipeError(f"raypipe {version} on Ray's workers, {__version__} here; install the same on every machine")


@contextmanager
def _unheard() -> Iterator[None]:
    """Turn file descriptor 2, on which Ray's C++ side talks, away from the terminal; its logs have it all."""
    if debugging():
        yield
        return
    sys.stderr.flush()
    heard, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(nowhere)


@contextmanager
def data_log_in_file_only() -> Iterator[None]:
    """Keep Ray Data's remarks and tracebacks off the terminal; its log in Ray's session folder has them."""
    consoles = [h for h in logging.getLogger("ray.data").handlers if h.name == "console"]
    levels = [handler.level for handler in consoles]
    if not debugging():
        for handler in consoles:
            handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def _too_many(may_lose: int) -> IncompleteError:
    return IncompleteError(
        f"stopped: workers died at more than {may_lose} shards; {DEATH_HINT}; run the same command again to go on"
    )


def root_cause(error: BaseException) -> str:
    """The last line that says anything of a Ray error, whose text is a traceback of tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return (telling or lines or [type(error).__name__])[-1][:500]
