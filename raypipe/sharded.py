"""Search an index by Ray actors, each with some of its segments, on as many machines as there are.

Queries are broadcast once; every shard finds the k nearest in its own segments, by the effort that the whole index has,
and the answers are merged by (score, seq_id): the same hits as of one process.

Shapes: Q queries, D values of a vector as the model gives it, k neighbours, n sequences that are asked for.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.errors import StoreError
from index.exact import NO_HIT, best
from index.info import Segment, read_info
from index.search import Found, Searcher
from index.store import Store
from raypipe.errors import RaypipeError, UsageError
from raypipe.ray_runtime import WORKER_START_SECONDS, root_cause, session
from raypipe.search_shard import SearchShard

# A shard whose process or machine died is begun anew by Ray, on a machine that is left. It opens its segments when it
# is next asked, so it cannot fail in its beginning for ever.
RESTARTS = -1
# The new one is waited for so long; to notice that a machine is gone can take half of it.
REPLICA_SECONDS = 90.0
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class ShardedFilter:
    """The sequences that may be found; `ShardedSearcher.allow` makes it.

    Attributes:
        version: of the index.
        key: by which shards know it again.
        seq_ids: reference to them in Ray's object store.
    """

    version: str
    key: str
    seq_ids: Any


class ShardedSearcher:
    """The live index of a store, its segments shared out among Ray actors; asked as a `Searcher` is.

    Close it, or use it in a `with` block. It stays usable when a newer index is published, for as long as no shard has
    to be opened again. Safe to search from several threads.

    Attributes:
        info: what the index is.
        catalog, transform: as of a `Searcher`.
        shards: the segments of each actor, as even in rows as whole segments allow.
    """

    def __init__(
        self, store: Store, number: int, *, address: str | None = None, cpus: float = 1, allow_stale: bool = False
    ):
        """Start the actors; all have opened their segments when this returns.

        Args:
            number: of shards; of fewer segments than that each is one.
            address: of the Ray cluster, whose machines see the store under the same path; $RAY_ADDRESS if None, or a
                Ray of our own. A Ray that this process is connected to already is used as it is.
            cpus: that each shard reserves, which are its threads too.
            allow_stale: search an index that is older than the store's embeddings or sources.

        Raises:
            UsageError: less than one shard, or shards without a CPU.
            StoreError: no index, or it is damaged or older than its store.
            RaypipeError: the cluster cannot be reached, or has no room for the shards.
        """
        if number < 1 or cpus <= 0:
            raise UsageError(f"{number} shards of {cpus:g} CPUs each: there must be at least one, with a CPU")
        # Without segments: it knows what an index is asked for, and what it says when that cannot be.
        self._front = Searcher.open(store, allow_stale=allow_stale, only=())
        self.catalog, self.transform = self._front.catalog, self._front.transform
        self.info = read_info(store, self._front.info.version)
        self.shards = share_out(self.info.segments, number)
        with ExitStack() as leave:
            self._ray = leave.enter_context(session(address))
            room = int(self._ray.cluster_resources().get("CPU", 0) / cpus)
            if len(self.shards) > room:
                raise RaypipeError(
                    f"{len(self.shards)} shards of {cpus:g} CPUs each: the cluster has CPUs for {room}; ask for fewer, "
                    f"or they never start"
                )
            self._actors = self._started(str(store.root), cpus)
            leave.callback(self._end)
            self._ask("open")
            self._leave = leave.pop_all()

    def __enter__(self) -> ShardedSearcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and leave Ray if it was for them that it was joined."""
        self._leave.close()

    def search(self, vectors: np.ndarray, k: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """What `find` finds: seq_ids (Q, k) int64 and scores (Q, k) float32; -1 and nan where fewer exist."""
        return self.find(vectors, k, **options)[:2]

    def find(
        self,
        vectors: np.ndarray,
        k: int,
        *,
        allowed: np.ndarray | ShardedFilter | None = None,
        partial: bool = False,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> Found:
        """As `Searcher.find`, whose options these are. `how` names the number of "shards" too, and what is "missing".

        A shard that died is opened again by a new actor, which is waited for and asked again.

        Args:
            allowed: seq_ids that may be found, in any order, or what `allow` made of them; all if None.
            partial: do not wait for a shard that died, nor let one that fails spoil the answer: give what the others
                found, and say so. `how["missing"]` then tells of each segment that was not searched why, and
                `how["missing_rows"]` the number of their vectors. It is an error if no shard answers.
            timeout_seconds: for all shards together; None is for as long as they live.

        Raises:
            StoreError: as `Searcher.find`; or a shard cannot open its segments again.
            RaypipeError: a shard died, and no new one answered; or this is closed.
        """
        nothing = self._front.find(vectors, k, **options)
        filter_ = self.allow(allowed) if isinstance(allowed, np.ndarray) else allowed
        if filter_ is not None and filter_.version != self.info.version:
            raise StoreError(f"the filter was made for index {filter_.version}, this is {self.info.version}")
        filtered = (None, None) if filter_ is None else (filter_.key, filter_.seq_ids)
        sent = self._ray.put(np.asarray(vectors, dtype=np.float32))
        answers, silent = self._ask(
            "find", sent, k, options, *filtered, partial=partial, timeout_seconds=timeout_seconds
        )
        ids = np.hstack([nothing.seq_ids, *(found.seq_ids for found in answers)])
        scores = np.hstack([nothing.scores, *(found.scores for found in answers)])
        ids, scores = best(ids, np.where(ids == NO_HIT, np.float32(-np.inf), scores), k)
        scores[ids == NO_HIT] = np.nan
        missing = [segment for place in silent for segment in self.shards[place]]
        how = {
            **nothing.how,
            "rows": self.info.rows,
            "allowed": sum(found.how["allowed"] for found in answers),
            "searched": [words for found in answers for words in found.how["searched"]],
            "shards": len(self.shards),
            "missing": {each.name: str(why) for place, why in silent.items() for each in self.shards[place]},
            "missing_rows": sum(segment.rows for segment in missing),
        }
        return Found(ids, scores, how)

    def allow(self, seq_ids: np.ndarray) -> ShardedFilter:
        """A filter for `find`, sent to the shards once: worth to keep where it comes again.

        Args:
            seq_ids: that may be found, in any order, (n,).
        """
        return ShardedFilter(self.info.version, uuid.uuid4().hex, self._ray.put(np.asarray(seq_ids, dtype=np.int64)))

    def vectors(self, seq_ids: np.ndarray) -> np.ndarray:
        """Stored vectors, as the model gave them: float32 (n, D) in the order of `seq_ids` (n,).

        Raises:
            StoreError: a sequence has no vector in this index.
            RaypipeError: a shard died, and no new one answered; or this is closed.
        """
        seq_ids = np.asarray(seq_ids, dtype=np.int64)
        result = np.empty((len(seq_ids), self.transform.dimension), dtype=np.float32)
        missing = np.ones(len(seq_ids), dtype=bool)
        for places, vectors in self._ask("vectors", seq_ids)[0]:
            result[places], missing[places] = vectors, False
        # Which has none at all, and says so.
        return self._front.vectors(seq_ids[missing]) if missing.any() else result

    def _started(self, root: str, cpus: float) -> list[Any]:
        from ray.exceptions import GetTimeoutError, RayError

        # BLAS and OpenMP read it when they are loaded; one that the cluster was started with would come before Ray's.
        threads = {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(cpus)))}}
        actor = self._ray.remote(SearchShard).options(
            num_cpus=cpus, max_restarts=RESTARTS, scheduling_strategy="SPREAD", runtime_env=threads
        )
        actors = [actor.remote(root, self.info.version, [segment.name for segment in shard]) for shard in self.shards]
        try:
            self._ray.get([each.__ray_ready__.remote() for each in actors], timeout=WORKER_START_SECONDS)
        except GetTimeoutError as error:
            raise RaypipeError(
                f"{len(actors)} shards of {cpus:g} CPUs each did not start within {WORKER_START_SECONDS:g} s; "
                f"ask for fewer, or free some CPUs of the cluster"
            ) from error
        except RayError as error:
            raise RaypipeError(f"the shards cannot start: {root_cause(error)}") from error
        return actors

    def _end(self) -> None:
        actors, self._actors = self._actors, []
        for actor in actors if self._ray.is_initialized() else ():  # else its owner ended them with Ray
            self._ray.kill(actor)

    def _ask(
        self, method: str, *arguments: Any, partial: bool = False, timeout_seconds: float | None = None
    ) -> tuple[list[Any], dict[int, Exception]]:
        """Ask all shards.

        Returns:
            Their answers; and why others, by their number, gave none: nothing unless `partial`.
        """
        if len(self._actors) < len(self.shards):
            raise RaypipeError("the shards are closed; open the atlas again")
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        answers, silent = self._gathered(method, arguments, partial, until)
        if silent and not (partial and answers):
            for error in silent.values():
                if isinstance(error, StoreError):
                    raise error from None
            lost = [segment.name for place in silent for segment in self.shards[place]]
            raise RaypipeError(
                f"{len(lost)} of {len(self.info.segments)} segments were not searched ({lost[0]}: "
                f"{next(iter(silent.values()))}); ask again, or for a partial answer"
            )
        return [answers[place] for place in sorted(answers)], silent

    def _gathered(
        self, method: str, arguments: Sequence[Any], partial: bool, until: float | None
    ) -> tuple[dict[int, Any], dict[int, Exception]]:
        """What each shard answers, by its number, and why others do not.

        All are waited for, also where one has failed: Ray prints the traceback of an error that nobody asks for.
        """
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        def send(place: int) -> Any:
            return getattr(self._actors[place], method).remote(*arguments)

        waiting = {send(place): place for place in range(len(self.shards))}
        answers: dict[int, Any] = {}
        silent: dict[int, Exception] = {}
        died: dict[int, float] = {}
        try:
            while waiting:
                left = None if until is None else max(0.0, until - time.monotonic())
                ready, late = self._ray.wait(list(waiting), timeout=left)
                if not ready:
                    silent |= {waiting[ref]: RaypipeError("it did not answer in time") for ref in late}
                    break
                place = waiting.pop(ready[0])
                try:
                    answers[place] = self._ray.get(ready[0])
                except RayTaskError as error:
                    told = isinstance(error.cause, StoreError)
                    silent[place] = error.cause if told else RaypipeError(root_cause(error))
                except (RayActorError, OutOfMemoryError) as error:
                    now = time.monotonic()
                    if partial or silent or now - died.setdefault(place, now) > REPLICA_SECONDS:
                        silent[place] = RaypipeError(f"its process or machine died: {root_cause(error)}")
                    else:
                        time.sleep(PAUSE_SECONDS)
                        waiting[send(place)] = place
                except RayError as error:
                    silent[place] = RaypipeError(root_cause(error))
        finally:
            for ref in waiting:  # what has not begun; the rest cannot be stopped
                self._ray.cancel(ref)
        return answers, silent


def share_out(segments: Sequence[Segment], number: int) -> list[list[Segment]]:
    """Segments for each of at most `number` shards: the largest first, each to the shard that has the fewest rows."""
    shards: list[list[Segment]] = [[] for _ in range(min(number, len(segments)))]
    for segment in sorted(segments, key=lambda each: -each.rows):
        min(shards, key=lambda shard: sum(each.rows for each in shard)).append(segment)
    return shards
