"""Verbs that hand work to a cluster: submit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from raypipe.cli.progress import say
from raypipe.errors import UsageError
from raypipe.jobs import STOP_SECONDS, Submission
from raypipe.jobs import submit as submit_job


def submit(
    *,
    command: Annotated[
        str, Parameter(help="The command, in one; or behind --, in words: raypipe submit -- embed /data/atlas")
    ] = "",
    address: Annotated[
        str | None,
        Parameter(help="Of the cluster's dashboard; by default $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."),
    ] = None,
    working_dir: Annotated[
        Path | None,
        Parameter(help="Folder that is copied to the cluster, where the job then runs. By default none is."),
    ] = None,
    env: Annotated[Sequence[str], Parameter(help="NAME=VALUE, a variable of the job; may be repeated.")] = (),
    stop_seconds: Annotated[
        int,
        Parameter(help="How long a job that is stopped may take to end in order.", validator=validators.Number(gte=0)),
    ] = STOP_SECONDS,
    follow: Annotated[bool, Parameter(help="Wait for the end of the job, and end with its exit code.")] = True,
) -> None:
    """Run a command of raypipe as a job of a Ray cluster, follow its log, and end as it ends.

    Files are named as here; the machines of the cluster must see them under the same paths. Ctrl-C ends the following,
    not the job.
    """
    pairs = [text.partition("=") for text in env]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise UsageError(f"--env {name}: write NAME=VALUE")
    asked = Submission(
        command=shlex.split(command),
        address=address,
        working_dir=working_dir,
        environment={name: value for name, _, value in pairs},
        stop_seconds=stop_seconds,
    )
    code = submit_job(asked, say, follow=follow)
    if code:
        sys.exit(code)


def spell_command(arguments: Sequence[str]) -> list[str]:
    """A command line with what is behind `submit ... --` as one option: cyclopts would take it for submit's own."""
    words = list(arguments)
    if words[:1] != ["submit"] or "--" not in words:
        return words
    place = words.index("--")
    return [*words[:place], f"--command={shlex.join(words[place + 1 :])}"]
