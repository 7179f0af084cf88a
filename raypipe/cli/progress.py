"""Progress on standard error: a bar on a terminal, a line now and then elsewhere (job logs)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from index.sets import ShardedSet
from raypipe.actors import Receipt
from raypipe.pipeline import Progress
from raypipe.plan import Task
from raypipe.wording import doing

LINE_EVERY_S = 10.0


def say(message: str) -> None:
    """One line for the person who waits."""
    print(message, file=sys.stderr, flush=True)


def warn_untrained(model: str) -> None:
    """Said by every verb that computes with random weights."""
    say(f"warning: {model} is untrained (random weights): good to try raypipe, not for conclusions")


class ReadingProgress:
    """Records read so far, now and then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = time.monotonic()

    def __call__(self, records: int) -> None:
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{self._name}: {records:,} records read")


class CountProgress:
    """So many of all, now and then."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{done:,} of {total:,} {self._what}")


class RunProgress(Progress):
    """Tokens done of all, shards, rate and time left."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._said = 0.0

    def planned(self, sets: Sequence[ShardedSet], tasks: Sequence[Task], todo: Sequence[Task], workers: int) -> None:
        if not todo:
            return
        what = doing(sets)
        tokens = sum(task.tokens for task in todo)
        sequences = sum(task.num_sequences for task in todo)
        finished = f", {len(tasks) - len(todo)} finished before" if len(todo) < len(tasks) else ""
        say(f"{what} {sequences:,} sequences ({tokens:,} tokens) in {len(todo)} shards{finished}; workers: {workers}")
        if len({tuple(number < 0 for number in task.shards) for task in todo}) > 1:
            say("these sets were begun with different shards: where they differ, the model runs once for each")
        self._total, self._tokens, self._shards, self._all = tokens, 0, 0, len(todo)
        self._begin = self._said = time.monotonic()
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn(what.removesuffix(" of")),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(what, total=tokens, rate="")
            self._bar.start()

    def finished(self, receipt: Receipt) -> None:
        if receipt.error:
            say(f"shard {receipt.shard} failed on {receipt.host}: {receipt.error}")
            return
        if receipt.note:
            say(f"shard {receipt.shard}: {receipt.note}")
        self._tokens += receipt.tokens
        self._shards += 1
        rate = f"{self._tokens / (time.monotonic() - self._begin):,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._tokens, rate=rate)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"{self._shards} of {self._all} shards, {100 * self._tokens / max(self._total, 1):.0f} %, {rate}")

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
