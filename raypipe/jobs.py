"""Hand a command over to a Ray cluster as a job, follow its log, and end as it ends.

Only the job server of the cluster is talked to (Ray's dashboard, port 8265); the command runs there as it would here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model import registry
from raypipe import __version__
from raypipe.errors import InputError, RaypipeError, UsageError, first_line
from raypipe.ray_runtime import knock

# Where Ray's own `ray job` looks for the job server too.
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Ray kills a job that is stopped after 3 s: too short to finish or drop a shard and to put locks away.
STOP_SECONDS = 120
POLL_SECONDS = 0.5
OUTPUTS = ("-o", "--output")
# Without an answer of the job server; the job goes on meanwhile.
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Submission:
    """A job that is to be.

    Attributes:
        command: of raypipe, without its name: ("embed", "/data/rna.fasta.gz", "-o", "/data/atlas").
        address: of the job server; None looks it up.
        working_dir: folder that is copied to the cluster, where the job then runs; None: no copy.
        environment: variables of the job.
        stop_seconds: how long a job that is stopped may take to end in order.
    """

    command: Sequence[str]
    address: str | None = None
    working_dir: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: int = STOP_SECONDS


def entrypoint(command: Sequence[str], working_dir: Path | None) -> str:
    """The shell line of the job.

    The job does not run in this folder, so what is a path from here is made absolute; in a copied folder inputs stay
    as they are, and an output would be lost with the copy.

    Raises:
        UsageError: no command, or an output that would be lost.
    """
    if not command:
        raise UsageError(
            "name the command to run on the cluster: raypipe submit -- embed /data/rna.fasta -o /data/atlas"
        )
    words = []
    option = ""  # that the next word belongs to
    for place, word in enumerate(command):
        key, equals, value = word.partition("=")
        if word.startswith("-"):
            joined = equals == "="
            words.append(f"{key}={_from_here(key, value, working_dir)}" if joined else word)
            option = "" if joined else word
        else:
            words.append(_from_here(option, word, working_dir) if place else word)
            option = ""
    return shlex.join(["python", "-m", "raypipe", *words])


def _from_here(option: str, word: str, working_dir: Path | None) -> str:
    """`word` as the job is to read it.

    Args:
        option: that it belongs to; "" if it belongs to none.

    Raises:
        UsageError: see `entrypoint`.
    """
    if option == "--name" or (option == "--model" and (known := registry.find(word)) and known.folder):
        return word
    if option == "--heads":  # names first of all; a path among them has a slash
        return ",".join(_absolute(one, working_dir) if "/" in one else one for one in word.split(","))
    if option in OUTPUTS:
        if working_dir is not None and not os.path.isabs(word) and "://" not in word:
            raise UsageError(
                f"{word}: with --working-dir the job runs in a copy of the folder, which is thrown away with what is "
                f"written there; give an absolute path that all machines share"
            )
        return os.path.abspath(word) if "://" not in word else word
    name, equals, file = word.partition("=")
    if equals and not os.path.exists(word):  # a table of annotations
        return f"{name}={_absolute(file, working_dir)}"
    return _absolute(word, working_dir)


def _absolute(word: str, working_dir: Path | None) -> str:
    return os.path.abspath(word) if working_dir is None and os.path.exists(word) else word


def submit(asked: Submission, tell: Callable[[str], None], *, follow: bool = True) -> int:
    """Run a command as a job.

    Args:
        tell: takes what there is to say of the job itself; its log goes to standard output.
        follow: wait for its end.

    Returns:
        The job's exit code; 0 where it is not waited for; 3 if it was stopped.

    Raises:
        InputError: the working folder cannot be used.
        RaypipeError: there is no job server, or it refuses.
        UsageError: see `entrypoint`.
    """
    line = entrypoint(asked.command, asked.working_dir)
    address = asked.address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if asked.working_dir is not None and not asked.working_dir.is_dir():
        raise InputError(f"--working-dir {asked.working_dir}: no such folder")
    client = _client(address)
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(asked.stop_seconds), **asked.environment}
    runtime: dict[str, Any] = {"env_vars": environment}
    if asked.working_dir is not None:
        runtime["working_dir"] = str(asked.working_dir.absolute())
    try:
        job = client.submit_job(entrypoint=line, runtime_env=runtime, metadata={"raypipe": __version__})
    except (RuntimeError, ValueError, ConnectionError, OSError) as error:
        raise RaypipeError(f"{address}: the job was refused: {first_line(error)}") from error
    tell(f"job {job}: {line}")
    stop = f"ray job stop --address {address} {job}"
    if not follow:
        tell(f"follow it with: ray job logs --follow --address {address} {job}; stop it with: {stop}")
        return 0
    goes_on = (
        f"job {job} goes on; follow it with: ray job logs --follow --address {address} {job}; stop it with: {stop}"
    )
    try:
        return _follow(client, job, tell)
    except KeyboardInterrupt:
        tell(goes_on)
        raise
    except (RuntimeError, OSError) as error:
        raise RaypipeError(f"{address}: the job server answers no longer ({first_line(error)}); {goes_on}") from error


def _client(address: str) -> Any:
    try:
        knock(address)
        from ray.job_submission import JobSubmissionClient

        # They set themselves to INFO while they are imported.
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray")]:
            logging.getLogger(name).setLevel(logging.ERROR)
        # It looks for ray.init's cluster where the address is not one of HTTP.
        return JobSubmissionClient(address if "://" in address else f"http://{address}")
    except ModuleNotFoundError:
        raise
    except (RuntimeError, ConnectionError, OSError, ValueError, ImportError) as error:
        raise RaypipeError(
            f"{address}: no Ray job server answers ({first_line(error)}); give the address of the cluster's dashboard "
            f"with --address http://HEAD:8265, and its token in $RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error


def _follow(client: Any, job: str, tell: Callable[[str], None]) -> int:
    """Print the log as it grows, until the job has ended; its exit code."""
    # In a thread: it waits for lines without end, and the signals of this process are for its main thread.
    log = threading.Thread(target=_print_log, args=(client, job), daemon=True)
    log.start()
    answered = time.monotonic()
    while True:
        try:
            info = client.get_job_info(job)
            answered = time.monotonic()
            if info.status.is_terminal():
                break
        except (RuntimeError, OSError):
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        time.sleep(POLL_SECONDS)
    log.join(timeout=10)
    status = str(info.status.value)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        tell(f"job {job} was stopped; what is finished stays, submit the same command again to go on")
        return 3
    code = info.driver_exit_code
    if code is None or code < 0:
        tell(f"job {job} failed: {first_line(info.message or 'without a word')}")
        return 1
    return int(code)


def _print_log(client: Any, job: str) -> None:
    async def print_all() -> None:
        async for lines in client.tail_job_logs(job):
            sys.stdout.write(lines)
            sys.stdout.flush()

    from aiohttp import ClientError  # of Ray's job server

    try:
        asyncio.run(print_all())
    except (RuntimeError, OSError, ClientError) as error:
        print(f"raypipe: the job's log can be followed no longer ({first_line(error)})", file=sys.stderr)
