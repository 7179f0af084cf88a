"""The actor: loads the model once, then turns shards into files.

It runs as a Ray Data actor or in this process (`--executor inline`), the same code. All it returns is a receipt; what
counts are the files that it renamed into place.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from index.errors import StoreError, UnreachableError
from index.parquet import read_rows
from index.places import place
from index.receipts import REJECTS
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store, is_store
from model.errors import ModelError
from model.head_files import find_head, read_head_file
from raypipe.attempts import Journal, journal_path
from raypipe.checkpoints import changed, find_on_node
from raypipe.completeness import shard_names
from raypipe.disk_errors import disk_error, gone
from raypipe.errors import RaypipeError
from raypipe.outputs import Ask, Output, compute, head_name, one_pass
from raypipe.plan import Shard, Task
from raypipe.prediction_tables import prediction_table
from raypipe.ray_runtime import DEATH_HINT, TASKS_PER_ACTOR
from raypipe.shard_files import is_finished, write_part, write_rejects
from raypipe.vector_tables import vector_tables
from raypipe.watchdog import Watchdog

ROW_GROUP = {"row_group_size": 8192}
# Vectors of halves are noise to a codec and an index column of random floats to a dictionary: neither pays.
NUMBERS = {**ROW_GROUP, "compression": "none", "use_dictionary": False, "write_statistics": ["seq_id"]}
WORDS = {**ROW_GROUP, "compression": "zstd"}
# Of the disk, not of one shard; EFBIG is a limit on files, EIO, ESTALE and ENOTCONN are of disks that went away.
DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
)
KILLED = "killed every worker that computed it, also alone; most likely the memory does not suffice for it"
Sequences = tuple[np.ndarray, list[str]]
"""seq_ids (N,) int64 of a task, and their sequences."""


@dataclass(frozen=True)
class Job:
    """All that an actor has to know; small, and the same for every shard.

    Attributes:
        sets: what is made, all of one model.
        compute_dtype: type of computation.
        device: "cpu" or "cuda".
        threads: of one actor on CPU, its share of the cluster's; on a machine with fewer CPUs as many as these.
        ask: how the model is asked.
        stall_seconds: without a forward pass or a file after which an actor's process is ended, to be replaced; 0 for
            never.
        replaceable: whether another process takes the place of one that ends.
        debug: whether to print tracebacks.
        run: names the run in the journals of attempts.
    """

    root: str
    sets: tuple[ShardedSet, ...]
    compute_dtype: str
    device: str
    threads: int
    ask: Ask
    stall_seconds: float = 0.0
    replaceable: bool = False
    debug: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])


@dataclass(frozen=True)
class Receipt:
    """What an actor says of one task.

    Attributes:
        shard: the task's number.
        rows, failed: its sequences of which everything was made that was missing, and those that a set refused.
        tokens: that went through the trunk.
        bytes: written.
        made: JSON of a list with an object for each set of the job that was made: "set", its place there, "rows",
            "failed", and "files", an `index.receipts.Stamp` by folder.
        error: why a file is missing, or "".
        fatal: whether every other shard would fail alike (a full disk), so that the run should stop.
        unreachable: whether that is for an object store that does not answer: the same command may go on later.
        note: what else there is to tell, in one line: that workers died, that batches were made smaller; or "".
        lost: whether workers died over it in this run until it, or sequences of it, were given up.
    """

    shard: int
    rows: int
    failed: int
    tokens: int
    seconds: float
    bytes: int
    host: str
    pid: int
    error: str = ""
    fatal: bool = False
    unreachable: bool = False
    made: str = "[]"
    note: str = ""
    lost: bool = False


class ShardActor:
    """Ray Data actor class: `__call__` takes a batch of one task and gives a batch of one receipt.

    It may be called from several threads (ray_runtime.TASKS_PER_ACTOR): one computes, the others have read their
    sequences meanwhile and wait for their turn.
    """

    def __init__(self, job: Job):
        self.job = job
        self._turn = threading.Lock()
        self._reader = ThreadPoolExecutor(TASKS_PER_ACTOR)
        self._ready = False
        self._watchdog = Watchdog(job.stall_seconds)
        self._journal: Journal | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        row = {name: int(batch[name][0]) for name in ("number", "seq_lo", "seq_hi", "tokens")}
        task = Task(**row, shards=tuple(int(number) for number in batch["shards"][0]))
        # The first task has nothing to wait for. What hangs while it reads is waited for, and ended, in its turn.
        early = self._ready and self._turn.locked()
        ahead = self._reader.submit(read_sequences, self.store, task) if early else None
        with self._turn:
            receipt = asdict(self.run(task, ahead))
        return {name: np.array([value]) for name, value in receipt.items()}

    def run(self, task: Task, ahead: Future[Sequences] | None = None) -> Receipt:
        """Make what is missing of one task and commit its files.

        Errors of the data, the disk or the model come back in the receipt.

        Args:
            ahead: the task's sequences, where they are being read already.
        """
        begin = time.perf_counter()
        failed, made = 0, []
        error, fatal, unreachable, ended = "", False, False, False
        journal = None
        notes: list[str] = []
        try:
            journal = self._journal = self._open_journal(task)
            if journal.hopeless:
                raise RaypipeError(f"every worker died that took shard {shard_names([task])}; {DEATH_HINT}")
            with self._watchdog.watching(journal.file):
                self._prepare()
                failed, made = self._make(task, ahead, journal, notes)
            ended = True
        except Exception as problem:
            # Whatever it is, it must not take the other shards with it; the run reports it and ends as incomplete.
            hopeless = journal is not None and journal.hopeless
            error, fatal, unreachable = self._explain(problem, hopeless=hopeless)
        finally:
            self._journal = None
            if journal is not None:
                with suppress(OSError):  # what it is, if it matters, was said
                    journal.close(finished=ended)
        lost = False
        if journal is not None:
            lost = journal.hopeless or bool(journal.deaths and journal.given_up)
            notes += [journal.summary()] if journal.deaths and not journal.hopeless else []
        rows = 0 if error else task.num_sequences - failed
        seconds = time.perf_counter() - begin
        size = sum(file["bytes"] for one in made for file in one["files"].values())
        return Receipt(
            shard=task.number,
            rows=rows,
            failed=failed,
            tokens=task.tokens,
            seconds=seconds,
            bytes=size,
            host=socket.gethostname(),
            pid=os.getpid(),
            error=error,
            fatal=fatal,
            unreachable=unreachable,
            made=json.dumps(made),
            note="; ".join(notes),
            lost=lost,
        )

    def _open_journal(self, task: Task) -> Journal:
        """The journal of attempts at a task; first of all, so that it knows of every way to die."""
        sets = [made.fingerprint for made, _ in task.own_shards(self.job.sets)]
        path = journal_path(self.job.root, self.job.sets, task)
        return Journal(path, self.job.run, [task.seq_lo, task.seq_hi, sets], task.num_sequences)

    def _explain(self, problem: Exception, *, hopeless: bool) -> tuple[str, bool, bool]:
        """What went wrong in words that say how to mend it; then `fatal` and `unreachable` of the receipt."""
        if self.job.debug:
            traceback.print_exception(problem)
        try:
            if not isinstance(problem, UnreachableError) and not is_store(self.job.root):
                return gone(self.job.root), True, False
        except UnreachableError as unreachable:
            problem = unreachable  # whatever failed first for it
        if isinstance(problem, UnreachableError):
            return str(problem), True, True
        if isinstance(problem, OSError):
            fatal = problem.errno in DISK_ERRORS or not self._ready
            return str(disk_error(place(self.job.root), problem)), fatal, False
        ours = isinstance(problem, (ModelError, StoreError, RaypipeError))
        error = str(problem) if ours else f"{type(problem).__name__}: {problem}"
        if self._ready or hopeless:
            return error, False, False
        return f"{error}; mend that and run the same command again: it goes on where it stopped", True, False

    def _prepare(self) -> None:
        """Open the store and load the model with its heads, for the first shard.

        Not in `__init__`: what goes wrong there reaches the user as Ray's traceback of tracebacks, and a process that
        dies there is started again and again; here it is a failed shard like any other.
        """
        if self._ready:
            return
        import torch

        from model import load

        job, first = self.job, self.job.sets[0]
        if job.device == "cpu":
            torch.set_num_threads(min(job.threads, len(os.sched_getaffinity(0))))
        self.store = Store.open(job.root)
        where = find_on_node(first.model, first.model_path, first.model_fingerprint, self._watchdog.progress)
        self.model = load(where, device=job.device, dtype=job.compute_dtype)
        for made in job.sets:
            if isinstance(made, Prediction) and made.head is not None:
                # Not `model.heads`, which reads every head that lies there: another one may be damaged.
                if made.head_path is None:
                    head = find_head(self.model.folder, head_name(made))
                else:
                    self.model.load_head(made.head_path)
                    head = read_head_file(made.head_path)
                if head.fingerprint != made.head_fingerprint:
                    raise changed(made.head_path or where, "head")
        # What the model cannot do at all is no fault of the sequences, which would all be rejected for it.
        one_pass(self.model, job.sets, ["ACGU"], job.ask)
        # Every batch of every kind of output looks up its tokens' vectors first.
        self.model.module.embedding.register_forward_pre_hook(lambda *_: self._passes())
        self._ready = True

    def _passes(self) -> None:
        """The model begins another batch."""
        self._watchdog.progress()
        if self._journal is not None:
            self._journal.forward_pass()

    def _make(
        self, task: Task, ahead: Future[Sequences] | None, journal: Journal, notes: list[str]
    ) -> tuple[int, list[dict[str, Any]]]:
        """What is missing of the task; the number of sequences that failed, and the receipt's `made`.

        What there is to tell of it is added to `notes`. The actor looks itself: the task may have been tried before,
        and every file that stands is of use.
        """
        shards = [(place, made, task.shard(place)) for place, made in enumerate(self.job.sets)]
        missing = [
            (place, made, shard) for place, made, shard in shards if shard and not is_finished(self.store, made, shard)
        ]
        if not missing:
            return 0, []
        ids, sequences = ahead.result() if ahead else read_sequences(self.store, task)
        outputs = self._compute([made for _, made, _ in missing], sequences, journal, notes)
        written = [
            {"set": place, **self._write(made, shard, ids, output)}
            for (place, made, shard), output in zip(missing, outputs, strict=True)
        ]
        return len({place for output in outputs for place in output.reasons}), written

    def _compute(
        self, sets: Sequence[ShardedSet], sequences: Sequence[str], journal: Journal, notes: list[str]
    ) -> list[Output]:
        """An output for each of `sets`, range by range where workers died; else all sequences are one range."""
        outputs = [Output() for _ in sets]
        budgets: list[int] = []
        for lo, hi in journal.ranges():
            with journal.computing((lo, hi)):
                try:
                    found = compute(self.model, sets, sequences[lo:hi], self.job.ask, budgets.append)
                except Exception as problem:
                    if self.job.replaceable and _has_lost_device(problem):
                        # Nothing can be computed in this process any more; another takes its place, as if it had died.
                        os._exit(1)
                    raise
            for output, part in zip(outputs, found, strict=True):
                output.rows.update({lo + place: row for place, row in part.rows.items()})
                output.reasons.update({lo + place: why for place, why in part.reasons.items()})
        if budgets:
            notes.append(f"too little memory, batches of {min(budgets):,} tokens instead")
        for output in outputs:
            output.reasons.update(dict.fromkeys(sorted(journal.given_up), KILLED))
        return outputs

    def _write(self, made: ShardedSet, shard: Shard, ids: np.ndarray, output: Output) -> dict[str, Any]:
        if not is_store(self.store.root):
            # Writing would make the folder anew, where a disk is to be mounted again.
            raise RaypipeError(gone(self.job.root))
        # Before the shard's own files, so that a finished shard's failures are never missing.
        rejects = write_rejects(
            self.store, made, shard, {int(ids[place]): why for place, why in output.reasons.items()}
        )
        places = sorted(output.rows)
        failed = len(output.reasons)
        tables, options = _tables(made, ids[places], [output.rows[place] for place in places])
        files = {REJECTS: asdict(rejects)} if rejects else {}
        for folder in reversed(made.folders):
            files[folder] = asdict(write_part(self.store, made, shard, folder, tables[folder], failed, **options))
            self._watchdog.progress()
        return {"rows": len(places), "failed": failed, "files": files}


def _tables(
    made: ShardedSet, seq_ids: np.ndarray, rows: Sequence
) -> tuple[Mapping[str, pa.Table | pa.RecordBatchReader], dict]:
    """The table of every folder of a set, and how to write it."""
    if isinstance(made, Embedding):
        return vector_tables(made, seq_ids, rows), NUMBERS
    assert isinstance(made, Prediction)
    return {made.main: prediction_table(made, seq_ids, rows)}, NUMBERS if made.task == "logits" else WORDS


def _has_lost_device(problem: Exception) -> bool:
    """Whether a CUDA device failed in a way that this process cannot recover from, as after an illegal access."""
    import torch

    return isinstance(problem, torch.AcceleratorError) and not isinstance(problem, torch.OutOfMemoryError)


def read_sequences(store: Store, task: Task) -> Sequences:
    """seq_ids (N,) int64 and sequences of a task, in order; row groups outside its range are not unpacked."""
    rows = read_rows(store.parts("sequences"), ["seq_id", "sequence"], task.seq_lo, task.seq_hi)
    rows = rows.sort_by("seq_id")
    if rows.num_rows != task.num_sequences:
        raise RaypipeError(
            f"sequences {task.seq_lo} to {task.seq_hi - 1}: {rows.num_rows} found where {task.num_sequences} were "
            f"ingested; a file in {store.root / 'sequences'} is missing or changed"
        )
    return rows["seq_id"].to_numpy(), rows["sequence"].to_pylist()
