"""Verbs that look at an atlas without Ray and without its lock: status, verify."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from index.lock import read_holder
from index.store import Store
from raypipe.cli.making import AtlasPath
from raypipe.cli.progress import say
from raypipe.errors import IncompleteError
from raypipe.interrupts import obeyed
from raypipe.status import AtlasStatus, SetStatus, atlas_status
from raypipe.wording import duration

if TYPE_CHECKING:
    from raypipe.verification import Problem

CLEAR = "\x1b[H\x1b[J"  # the cursor to the top, and the screen empty


def status(
    atlas: AtlasPath,
    *,
    watch: Annotated[
        bool, Parameter(negative="", help="Tell it again and again until all is done, or Ctrl-C.")
    ] = False,
    every: Annotated[float, Parameter(help="Seconds between two looks.", validator=validators.Number(gt=0))] = 2.0,
    format: Annotated[Literal["text", "json"], Parameter(help="json: an object, on one line each time.")] = "text",
) -> None:
    """Say how far the runs over an atlas are, while they go on or after them."""
    try:
        while True:
            now = time.time()
            state = atlas_status(atlas, now)
            if format == "json":
                print(json.dumps({**asdict(state), "complete": state.complete}), flush=True)
            else:
                print((CLEAR if watch and sys.stdout.isatty() else "") + "\n".join(_lines(state, now)), flush=True)
            if not watch or state.complete:
                return
            time.sleep(every)
    except KeyboardInterrupt:
        if not watch:
            raise
        obeyed()


def verify(
    atlas: AtlasPath,
    *,
    deep: Annotated[
        bool, Parameter(negative="", help="Read every byte too: checksums, all values, md5 of every sequence.")
    ] = False,
    mend: Annotated[
        bool, Parameter(negative="", help="Remove damaged files that a run can make again; takes the writer's lock.")
    ] = False,
) -> None:
    """Look whether an atlas is whole: nothing missing, twice, damaged or foreign. Exit code 3 if it is not."""
    from raypipe.verification import verify as verify_store

    store = Store.open(atlas)
    found: list[Problem] = []
    with store.lock() if mend else nullcontext():
        writer = read_holder(store.root)
        if writer and writer.writing and not mend:
            say(f"note: process {writer.pid} is writing to this atlas; what it has not finished yet counts as missing")
        for section in verify_store(store, deep=deep):
            print(f"{'!!' if section.problems else 'ok'}  {section.name}: {section.summary}".rstrip(": "), flush=True)
            for problem in section.problems:
                found.append(problem)
                if mend and problem.remove is not None:
                    problem.remove.unlink(missing_ok=True)
                print(f"    {_told(problem, store, mend)}", flush=True)
    if not deep and any(problem.damage for problem in found):
        say(f"note: contents were not compared; that does: raypipe verify {store.root} --deep")
    if found:
        raise IncompleteError(f"{store.root}: {len(found)} problem{'' if len(found) == 1 else 's'}")


def _told(problem: Problem, store: Store, removed: bool) -> str:
    if problem.remove is None:
        return "; ".join(part for part in (problem.text, problem.again) if part)
    how = "removed;" if removed else f"raypipe verify {store.root} --mend removes it; then"
    return f"{problem.text}; {how} {problem.again}"


def _lines(state: AtlasStatus, now: float) -> list[str]:
    sources = "source" if state.sources == 1 else "sources"
    lines = [
        f"atlas        {state.path}",
        f"ingested     {state.records:,} records ({state.rejected:,} rejected) from {state.sources} {sources}: "
        f"{state.sequences:,} distinct sequences",
        f"writer       {_writer(state)}",
    ]
    for made in state.sets:
        folder, _, name = made.folder.partition("/")
        lines.append(f"{folder:12} {name}: {_progress(made)}")
        if made.unseen:
            lines.append(f"{'':12} {made.unseen} shards without a receipt; the next run looks at them")
        if made.failures:
            last = made.failures[-1]
            ago = duration(max(0.0, now - last.at))
            lines.append(
                f"{'':12} {len(made.failures)} shards failed; the last, {ago} ago, is shard {last.shard} on "
                f"{last.host}: {last.error}"
            )
    if not state.sets:
        lines.append(f"nothing is embedded yet; run: raypipe embed {state.path}")
    return lines


def _writer(state: AtlasStatus) -> str:
    holder = state.writer
    if not state.has_lock:
        return "cannot be told: an object store has no lock"
    if holder is None:
        return "nobody"
    who = f"process {holder.pid} on {holder.host}, since {holder.started} UTC"
    if holder.writing is None:
        return f"{who} (whether it lives cannot be told from here)"
    return who if holder.writing else f"nobody (the last one was {who})"


def _progress(made: SetStatus) -> str:
    if made.problem:
        return made.problem
    share = 100 * made.done / made.sequences if made.sequences else 100
    said = (
        f"{made.shards_done:,} of {made.shards:,} shards, {made.done - made.failed:,} {made.verb} and {made.failed:,} "
        f"failed of {made.sequences:,} sequences ({int(share)} %)"
    )
    if made.planned < made.sequences:
        said += f", {made.sequences - made.planned:,} not planned yet"
    if made.tokens_per_s:
        said += f"; {made.tokens_per_s:,.0f} tokens/s, {made.sequences_per_s:,.1f} sequences/s"
    return f"{said}, {duration(made.seconds_left)} left" if made.seconds_left is not None else said
