"""The actor: loads the model once, then turns shards into files.

It runs as a Ray Data actor or in this process (`--executor inline`), the same code. All it returns is a receipt; what
counts are the files that it renamed into place.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.errors import StoreError
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store
from model.errors import ModelError
from model.head_files import find_head, read_head_file
from raypipe.errors import RaypipeError, disk_error
from raypipe.outputs import Ask, Output, compute, head_name, one_pass
from raypipe.plan import Shard, Task
from raypipe.prediction_tables import prediction_table
from raypipe.shard_files import is_finished, write_part, write_rejects
from raypipe.vector_tables import vector_tables

ROW_GROUP = {"row_group_size": 8192}
# Vectors of halves are noise to a codec and an index column of random floats to a dictionary: neither pays.
NUMBERS = {**ROW_GROUP, "compression": "none", "use_dictionary": False, "write_statistics": ["seq_id"]}
WORDS = {**ROW_GROUP, "compression": "zstd"}


@dataclass(frozen=True)
class Job:
    """All that an actor has to know; small, and the same for every shard.

    Attributes:
        sets: what is made, all of one model.
        compute_dtype: type of computation.
        device: "cpu" or "cuda".
        threads: of one actor on CPU.
        ask: how the model is asked.
    """

    root: str
    sets: tuple[ShardedSet, ...]
    compute_dtype: str
    device: str
    threads: int
    ask: Ask


@dataclass(frozen=True)
class Receipt:
    """What an actor says of one task.

    Attributes:
        shard: the task's number.
        rows, failed: its sequences of which everything was made that was missing, and those that a set refused.
        tokens: that went through the trunk.
        bytes: written.
        error: why a file is missing, or "".
        fatal: whether every other shard would fail alike (a full disk), so that the run should stop.
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


class ShardActor:
    """Ray Data actor class: `__call__` takes a batch of one task and gives a batch of one receipt."""

    def __init__(self, job: Job):
        self.job = job
        self._ready = False

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        row = {name: int(batch[name][0]) for name in ("number", "seq_lo", "seq_hi", "tokens")}
        receipt = asdict(self.run(Task(**row, shards=tuple(int(number) for number in batch["shards"][0]))))
        return {name: np.array([value]) for name, value in receipt.items()}

    def run(self, task: Task) -> Receipt:
        """Make what is missing of one task and commit its files.

        Errors of the data, the disk or the model come back in the receipt.
        """
        begin = time.perf_counter()
        failed = size = 0
        error, fatal = "", False
        try:
            self._prepare()
            failed, size = self._make(task)
        except OSError as problem:
            error = str(disk_error(Path(self.job.root), problem))
            disk = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
            fatal = disk or not self._ready
        except Exception as problem:
            # Whatever it is, it must not take the other shards with it; the run reports it and ends as incomplete.
            ours = isinstance(problem, (ModelError, StoreError, RaypipeError))
            error = str(problem) if ours else f"{type(problem).__name__}: {problem}"
            if not self._ready:
                fatal = True
                error += "; mend that and run the same command again: it goes on where it stopped"
        rows = 0 if error else task.num_sequences - failed
        seconds = time.perf_counter() - begin
        host, pid = socket.gethostname(), os.getpid()
        return Receipt(task.number, rows, failed, task.tokens, seconds, size, host, pid, error, fatal)

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
            torch.set_num_threads(job.threads)
        self.store = Store.open(job.root)
        self.model = load(first.model_path, device=job.device, dtype=job.compute_dtype)
        if self.model.fingerprint != first.model_fingerprint:
            raise _changed(first.model_path, "model")
        for made in job.sets:
            if isinstance(made, Prediction) and made.head is not None:
                # Not `model.heads`, which reads every head that lies there: another one may be damaged.
                if made.head_path is None:
                    head = find_head(self.model.folder, head_name(made))
                else:
                    self.model.load_head(made.head_path)
                    head = read_head_file(made.head_path)
                if head.fingerprint != made.head_fingerprint:
                    raise _changed(made.head_path or first.model_path, "head")
        # What the model cannot do at all is no fault of the sequences, which would all be rejected for it.
        one_pass(self.model, job.sets, ["ACGU"], job.ask)
        self._ready = True

    def _make(self, task: Task) -> tuple[int, int]:
        """What is missing of the task; the number of sequences that failed, and of bytes written.

        The actor looks itself: the task may have been tried before, and every file that stands is of use.
        """
        shards = [(made, task.shard(place)) for place, made in enumerate(self.job.sets)]
        missing = [(made, shard) for made, shard in shards if shard and not is_finished(self.store, made, shard)]
        if not missing:
            return 0, 0
        ids, sequences = read_sequences(self.store, task)
        outputs = compute(self.model, [made for made, _ in missing], sequences, self.job.ask)
        size = sum(
            self._write(made, shard, ids, output) for (made, shard), output in zip(missing, outputs, strict=True)
        )
        return len({place for output in outputs for place in output.reasons}), size

    def _write(self, made: ShardedSet, shard: Shard, ids: np.ndarray, output: Output) -> int:
        # Before the shard's own files, so that a finished shard's failures are never missing.
        write_rejects(self.store, made, shard, {int(ids[place]): why for place, why in output.reasons.items()})
        places = sorted(output.rows)
        failed = len(output.reasons)
        tables, options = _tables(made, ids[places], [output.rows[place] for place in places])
        return sum(
            write_part(self.store, made, shard, folder, tables[folder], failed, **options)
            for folder in reversed(made.folders)
        )


def _tables(made: ShardedSet, seq_ids: np.ndarray, rows: Sequence) -> tuple[dict[str, pa.Table], dict]:
    """The table of every folder of a set, and how to write it."""
    if isinstance(made, Embedding):
        return vector_tables(made, seq_ids, rows), NUMBERS
    assert isinstance(made, Prediction)
    return {made.main: prediction_table(made, seq_ids, rows)}, NUMBERS if made.task == "logits" else WORDS


def _changed(path: str, what: str) -> RaypipeError:
    return RaypipeError(
        f"{path} holds another {what} than when and where the run was started; give every machine the same files, and "
        f"leave them alone while it runs"
    )


def read_sequences(store: Store, task: Task) -> tuple[np.ndarray, list[str]]:
    """seq_ids (N,) int64 and sequences of a task, in order; row groups outside its range are not unpacked."""
    # Here, not above: with pandas installed its import costs every command a quarter of a second.
    import pyarrow.dataset as ds

    field = ds.field("seq_id")
    rows = ds.dataset([str(part) for part in store.parts("sequences")]).to_table(
        columns=["seq_id", "sequence"], filter=(field >= task.seq_lo) & (field < task.seq_hi)
    )
    rows = rows.sort_by("seq_id")
    if rows.num_rows != task.num_sequences:
        raise RaypipeError(
            f"sequences {task.seq_lo} to {task.seq_hi - 1}: {rows.num_rows} found where {task.num_sequences} were "
            f"ingested; a file in {store.root / 'sequences'} is missing or changed"
        )
    return rows["seq_id"].to_numpy(), rows["sequence"].to_pylist()
