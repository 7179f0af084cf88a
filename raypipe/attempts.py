"""The journal of attempts at one task: how a sequence is found that kills the worker which computes it.

A process that is killed cannot say what killed it, so it writes down beforehand what it begins. Whoever takes the task
next reads that, and finds the culprit by halves, one death at a time:

- An attempt that neither ended nor left in order, and after which the same run tried again, was a death. What an
  attempt of an earlier run left unfinished is none: there it was the whole run that was stopped or killed.
- A death accuses the range of sequences that was being computed, and no other; before the first range (a model that
  cannot be loaded, a lost machine) it accuses nobody.
- Machines are killed from outside too, and that is no sequence's fault. The whole task is divided only after two deaths
  in the same forward pass, where the same sequences are computed every time (or twice as many deaths anywhere), its
  parts after one, and a sequence is given up after two deaths alone, three where nothing accused it before.
- The largest ranges come first, so that what is innocent is known soon and does not wait for the last culprit.

So a task that was not divided is computed in the same batches, to the same bits, however often it was killed. One that
was divided is not: batches hold other sequences, and the last bits of a sum depend on the shape of its batch.

The journal is a file of JSON lines in the store's folder `.attempts/`, written without syncing (a process that dies
loses nothing that it has written; after a power cut nobody is accused) and removed when the task's files stand. Of an
atlas in an object store, where nothing can be added to a file, the folder is on each machine's own disk: a death there
is known to the workers of that machine only, each of which finds the culprit for itself.
"""

from __future__ import annotations

import glob
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index.files import machine_folder
from index.places import Place, RemotePath, place
from index.sets import ShardedSet
from raypipe.plan import Task

FOLDER = ".attempts"
# Deaths of one run at one task after which the run leaves it alone: before any range, and without any range computed or
# sequence given up since. A worker that dies of everything is not to be asked about every sequence.
EARLY_DEATHS = 3
DEATHS_IN_A_ROW = 8
# What faulthandler writes when a worker is ended because it stands still.
STOOD_STILL = "Timeout ("

Span = tuple[int, int]


@dataclass
class _Range:
    """Places [lo, hi) of the task, to be computed together.

    Attributes:
        deaths: the number of the forward pass in which each worker died.
        accused: whether it is half of what was divided.
        innocent: whether some attempt has computed it.
    """

    lo: int
    hi: int
    accused: bool = False
    deaths: list[int] = field(default_factory=list)
    innocent: bool = False

    @property
    def guilty(self) -> bool:
        """Whether it killed often enough to be divided, or given up where it is one sequence."""
        enough = 3 - self.accused - (self.hi - self.lo > 1)
        return max(Counter(self.deaths).values()) >= enough or len(self.deaths) >= 2 * enough


@dataclass
class _Attempt:
    run: str
    span: Span | None = None
    passes: int = 0


class Journal:
    """What was tried with one task, and what is tried now.

    Args:
        path: the file; see `journal_path`.
        run: names the run, the same for all its workers.
        task: what the task is (its sequences, the sets made); lines of another one are passed over.
        size: number of its sequences.

    Attributes:
        deaths, stood_still: workers of this run that died over the task, and those of them that were ended because
            they stood still.
        given_up: places of the sequences that are not to be computed any more.

    Raises:
        OSError: the store cannot be written.
    """

    def __init__(self, path: Path, run: str, task: list[Any], size: int):
        self._path = path
        self._run, self._task, self._size = run, task, size
        self._name = uuid.uuid4().hex[:12]
        self.deaths = self.stood_still = 0
        self._early = self._in_a_row = 0
        self.given_up: set[int] = set()
        self._ranges = {(0, size): _Range(0, size)}
        path.parent.mkdir(exist_ok=True)
        # Every line is one write at the end of the file, so two processes cannot mix theirs.
        self.file = path.open("ab", buffering=0)
        try:
            # What killed the writer of a line in its middle.
            torn = self.file.tell() > 0 and not path.read_bytes().endswith(b"\n")
            self._say("enter", run, task, before=b"\n" if torn else b"")
            self._read(path.read_text("utf-8", errors="replace"))
        except BaseException:
            self.file.close()
            raise

    @property
    def hopeless(self) -> bool:
        """Whether this run had better leave the task alone."""
        return self._early >= EARLY_DEATHS or self._in_a_row >= DEATHS_IN_A_ROW

    def ranges(self) -> list[Span]:
        """What there is to compute, in that order: unknown ranges, the largest first, then those known to be good."""
        unknown_first = sorted(self._ranges.values(), key=lambda each: (each.innocent, each.lo - each.hi, each.lo))
        return [(each.lo, each.hi) for each in unknown_first]

    @contextmanager
    def computing(self, span: Span) -> Iterator[None]:
        """Note that a range is begun, and that it was survived; an exception is no death."""
        self._say("begin", *span)
        try:
            yield
        except BaseException:
            self._say("left")
            raise
        self._say("end", *span)

    def forward_pass(self) -> None:
        """Note that the model begins another batch."""
        self._say("pass")

    def close(self, *, finished: bool) -> None:
        """Say that this attempt is over, in order; a task that is finished needs no journal any more."""
        if finished:
            self._path.unlink(missing_ok=True)
        else:
            self._say("left")
        self.file.close()

    def summary(self) -> str:
        """What befell the workers of this run, in words; "" where nothing did."""
        if not self.deaths:
            return ""
        died = f"{self.deaths} {'worker' if self.deaths == 1 else 'workers'} died over it"
        if self.stood_still:
            died += f", {self.stood_still} of them replaced because they stood still"
        if self.given_up:
            count = len(self.given_up)
            died += f"; {count} {'sequence' if count == 1 else 'sequences'} given up as the cause, see rejects"
        return died

    def _say(self, *words: Any, before: bytes = b"") -> None:
        self.file.write(before + json.dumps([self._name, *words], separators=(",", ":")).encode() + b"\n")

    def _read(self, text: str) -> None:
        attempts: dict[str, _Attempt] = {}
        stood_still: set[str] = set()
        last = ""
        for line in text.splitlines():
            if line.startswith(STOOD_STILL):
                stood_still.add(last)
            try:
                name, word, *rest = json.loads(line)
            except (ValueError, TypeError):
                continue  # torn, or of the stack of a worker that stood still
            if word == "enter":
                run, task = rest
                for other, attempt in list(attempts.items()):
                    if attempt.run == run:
                        self._died(attempts.pop(other), other in stood_still)
                if task == self._task:
                    attempts[name] = _Attempt(run)
                last = name
            elif name in attempts:
                self._note(attempts, name, word, rest)

    def _note(self, attempts: dict[str, _Attempt], name: str, word: str, rest: list[Any]) -> None:
        attempt = attempts[name]
        if word == "begin":
            attempt.span, attempt.passes = (rest[0], rest[1]), 0
        elif word == "pass":
            attempt.passes += 1
        elif word == "end":
            if attempt.span in self._ranges:
                self._ranges[attempt.span].innocent = True
            if attempt.run == self._run:
                self._in_a_row = 0
        elif word == "left":
            del attempts[name]

    def _died(self, attempt: _Attempt, stood_still: bool) -> None:
        ours = attempt.run == self._run
        if ours:
            self.deaths += 1
            self.stood_still += stood_still
            self._early += attempt.span is None
            self._in_a_row += 1
        found = self._ranges.get(attempt.span) if attempt.span else None
        if found is None:
            return
        found.deaths.append(attempt.passes)
        found.innocent = False
        if not found.guilty:
            return
        del self._ranges[found.lo, found.hi]
        if found.hi - found.lo == 1:
            self.given_up.add(found.lo)
            self._in_a_row = 0
            return
        middle = (found.lo + found.hi) // 2
        for lo, hi in ((found.lo, middle), (middle, found.hi)):
            self._ranges[lo, hi] = _Range(lo, hi, accused=True)


def _folder(root: str | Place) -> Path:
    where = place(root)
    return machine_folder(where) / FOLDER if isinstance(where, RemotePath) else where / FOLDER


def journal_path(root: str | Place, sets: Sequence[ShardedSet], task: Task) -> Path:
    """Where the journal of a task stands; it is named for the first of `sets` that has a shard of it."""
    made, shard = task.own_shards(sets)[0]
    return _folder(root) / f"{made.main}-{made.name}-{shard.number:06d}.jsonl"


def sweep(root: str | Place, sets: Sequence[ShardedSet], todo: Iterable[Task]) -> None:
    """Remove the journals of finished tasks, and the folder if nothing is left in it.

    A worker that is killed between a task's last file and its journal's end leaves one. The caller holds
    `store.lock()`, and no worker is at work.

    Args:
        sets: of one run.
        todo: the tasks that this run had to do, whose journals stay if they were not done.
    """
    folder = _folder(root)
    keep = {journal_path(root, sets, task) for task in todo}
    for made in sets:
        for path in folder.glob(f"{glob.escape(f'{made.main}-{made.name}')}-{'[0-9]' * 6}.jsonl"):
            if path not in keep:
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or never made
        folder.rmdir()
