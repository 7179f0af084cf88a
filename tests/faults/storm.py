"""Kill whatever can be killed while an atlas is embedded on a cluster, and look whether anything is lost.

    python -m tests.faults.storm            KILLS=20 SEED=1 SHARDS=120 in the environment

A cluster of a head and two nodes on this machine embeds an atlas. At random moments of a seeded dice an actor, a node's
raylet, a whole node or the driver gets SIGKILL; nodes come back after some seconds, and the driver is started again by
the same command. After every kill, as soon as the run goes on, and at the end, every file that stands is compared with
an undisturbed run's: each sequence once, the same bits. A table of the kills goes to standard output; the exit code is
1 if anything is lost, doubled or different, or a run ended by itself before it was done.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", "0123456789abcdef" * 4),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "OMP_NUM_THREADS": "1",
}

from tests.runs import CONSOLE, RAY_WORKER, Run, done, shard_files, started, write_fasta
from tests.untrained import make_untrained

SEQUENCES_PER_SHARD = 50
# Longer is no recovery: a node's death is noticed within 10 s, and a new actor has to load torch and the model.
RECOVERY_SECONDS = 180


@dataclass
class Kill:
    """One kill, as the table shows it.

    Attributes:
        at: seconds since the first start of the driver.
        finished: shards that stood when it came.
        recovery: seconds until another one stood.
    """

    what: str
    at: float
    finished: int
    recovery: float = float("nan")
    verdict: str = "?"


class Storm:
    """One atlas, its cluster, and all that befalls them.

    Args:
        folder: to work in.
        kills, shards: how many, of shards about; `seed` of the moments and the victims.
        say: takes each kill when its verdict is known.
    """

    def __init__(self, folder: Path, kills: int, shards: int, seed: int, say: Callable[[Kill], None]):
        self._folder, self._say = folder, say
        self._dice = random.Random(seed)
        kinds = ["actor", "raylet", "driver", "node"]
        self._kinds = [kind for _ in range(kills // 4) for kind in kinds] + self._dice.sample(kinds, kills % 4)
        self._dice.shuffle(self._kinds)
        self._atlas = folder / "atlas"
        self.sequences = SEQUENCES_PER_SHARD * shards
        model = make_untrained(folder / "nano", width=256, says_so=False)
        write_fasta(folder / "in.fa", self.sequences, 100, 200)
        inputs = ["--model", str(model), "--shard-tokens", str(SEQUENCES_PER_SHARD * 150)]
        embed = [*CONSOLE, "embed", "in.fa", *inputs, "-o"]
        # One CPU, as each worker has: the bits depend on the number of threads.
        run = done([*embed, "undisturbed", "--executor", "inline"], cwd=folder, cpus=1, seconds=1800)
        if run.code:
            raise SystemExit(run.err)
        self._expected = {path.name: path for path in shard_files(folder / "undisturbed")}
        self._command = [*embed, "atlas", "--address"]
        self._judged: set[tuple[str, int]] = set()
        self.kills: list[Kill] = []
        self.failures: list[str] = []

    @property
    def shards(self) -> int:
        """Of the atlas."""
        return len(self._expected)

    def rage(self) -> None:
        """Until the kills are used up and the atlas is done."""
        from ray.cluster_utils import Cluster

        home = tempfile.mkdtemp(prefix="rt", dir="/tmp")  # the path of a Unix socket is limited to 107 bytes
        options = {"num_cpus": 0, "include_dashboard": False, "temp_dir": home}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=options)
        self._begin = time.monotonic()
        try:
            for _ in range(2):
                self._cluster.add_node(num_cpus=1)
            while self._drive():
                pass
        finally:
            self._cluster.shutdown()
            shutil.rmtree(home, ignore_errors=True)
        self._conclude()

    def _drive(self) -> bool:
        """Start the driver and let it run to its end, or until it is killed; whether there is more to do."""
        waiting = self.kills[-1] if self.kills and self.kills[-1].verdict == "?" else None
        with started([*self._command, self._cluster.address], cwd=self._folder) as driver:
            while True:
                if waiting and not self._recovered(waiting, driver):
                    break
                waiting = None
                if not self._kinds:
                    self._wait(driver, lambda: False, 3600)
                    break
                if not self._moment(driver):
                    break
                waiting = self._strike(self._kinds.pop(), driver)
                if waiting.what == "driver":
                    driver.wait()
                    return True
            code = driver.wait(RECOVERY_SECONDS).code
        if waiting and waiting.verdict == "?":
            self._settle(waiting, "" if code == 0 else f"the run ended: {driver.lines[-1:]}")
        if code:
            self.failures.append(f"the run ended by itself with {code}: {driver.lines[-1:]}")
            return len(self.failures) < 3
        if self._kinds:  # it was too fast for so many kills: once more
            self._conclude()
            shutil.rmtree(self._atlas)
            return True
        return False

    def _moment(self, driver: Run) -> bool:
        """Wait for a random moment of the run; False where it ended before."""
        finished = len(shard_files(self._atlas))
        # Half of what there is for each: the run goes on while what was killed is given back.
        spacing = max(1, (self.shards - finished) // (2 * len(self._kinds) + 1))
        then = finished + self._dice.randint(0, spacing)
        if not self._wait(driver, lambda: len(shard_files(self._atlas)) >= then, 3600):
            return False
        pause = time.monotonic() + self._dice.random()
        return self._wait(driver, lambda: time.monotonic() > pause, 60)

    def _strike(self, what: str, driver: Run) -> Kill:
        """Kill something, and give a node back where it was one."""
        if what == "actor":
            self._wait(driver, lambda: bool(self._actors()), RECOVERY_SECONDS)
        kill = Kill(what, time.monotonic() - self._begin, len(shard_files(self._atlas)))
        self.kills.append(kill)
        if what == "driver":
            _kill([driver.process.pid])
        elif what == "actor":
            _kill([self._dice.choice(sorted(self._actors() or [0]))])
        else:
            node = self._dice.choice(sorted(self._cluster.worker_nodes, key=lambda each: each.unique_id))
            raylet = node.all_processes["raylet"][0].process.pid
            _kill([raylet] if what == "raylet" else [raylet, *descendants(raylet)])
            self._cluster.remove_node(node, allow_graceful=False)
            time.sleep(3 * self._dice.random())
            self._cluster.add_node(num_cpus=1)
        return kill

    def _actors(self) -> set[int]:
        """Workers of Ray Data on the cluster's nodes."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self._cluster.worker_nodes]
        pids = {pid for raylet in raylets for pid in descendants(raylet)}
        return {pid for pid in pids if RAY_WORKER in _command_line(pid)}

    def _recovered(self, kill: Kill, driver: Run) -> bool:
        """Wait for the next finished shard, and judge what stands; False where the run ended without one."""
        went_on = self._wait(driver, lambda: len(shard_files(self._atlas)) > kill.finished, RECOVERY_SECONDS)
        if not went_on and driver.process.poll() is None:
            self._settle(kill, f"no shard within {RECOVERY_SECONDS} s")
            driver.kill_all()
            return False
        if went_on:
            self._settle(kill, "")
        return went_on

    def _settle(self, kill: Kill, problem: str) -> None:
        kill.recovery = time.monotonic() - self._begin - kill.at
        found = [problem] if problem else self._judge()
        kill.verdict = "; ".join(found) or "ok"
        self.failures += found
        self._say(kill)

    def _judge(self) -> list[str]:
        """What is wrong with the files that stand."""
        problems = []
        for path in shard_files(self._atlas):
            seen = (path.name, path.stat().st_mtime_ns)
            if seen in self._judged:
                continue
            if path.name not in self._expected:
                problems.append(f"{path.name} is of no shard")
            elif not pq.read_table(path).equals(pq.read_table(self._expected[path.name]), check_metadata=True):
                problems.append(f"{path.name} differs")
            self._judged.add(seen)
        return problems

    def _conclude(self) -> None:
        """The whole atlas: exactly the rows that were asked for."""
        self._judged.clear()
        self.failures += self._judge()
        ids = [each for path in shard_files(self._atlas) for each in pq.read_table(path)["seq_id"].to_pylist()]
        if sorted(ids) != list(range(self.sequences)):
            self.failures.append(f"{len(ids)} rows of {len(set(ids))} sequences")
        if {path.name for path in shard_files(self._atlas)} != set(self._expected):
            self.failures.append(f"{len(shard_files(self._atlas))} of {self.shards} shards")
        for folder in (".tmp", ".attempts"):
            self.failures += [f"{path} was left" for path in self._atlas.glob(f"{folder}/*")]
        self.failures += [f"{path.name}: sequences were rejected" for path in self._atlas.glob("rejects/part-embed*")]

    def _wait(self, driver: Run, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether `condition` came to hold while the driver lives."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and driver.process.poll() is None:
            if condition():
                return True
            time.sleep(0.05)
        return False


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    """All living processes that `pid` has started, and theirs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name) state parent ...; a name may hold anything
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(folder.name), *descendants(int(folder.name))]
    return found


def _command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def main() -> int:
    """Run, print the table; 1 if anything went wrong."""
    kills, seed = int(os.environ.get("KILLS", 20)), int(os.environ.get("SEED", 1))
    shards = int(os.environ.get("SHARDS", max(100, 6 * kills)))
    folder = Path(tempfile.mkdtemp(prefix="storm"))
    number = 0

    def say(kill: Kill) -> None:
        nonlocal number
        number += 1
        row = f"| {number} | {kill.what} | {kill.at:.1f} | {kill.finished} | {kill.recovery:.1f} | {kill.verdict} |"
        print(row, flush=True)

    try:
        storm = Storm(folder, kills, shards, seed, say)
        print(f"{kills} kills over {storm.shards} shards, seed {seed}", file=sys.stderr, flush=True)
        print(
            "| # | killed | at, s | shards done | recovery, s | files that stand |\n|---|---|---|---|---|---|",
            flush=True,
        )
        begin = time.monotonic()
        storm.rage()
        for failure in storm.failures:
            print(f"FAILED: {failure}", flush=True)
        if not storm.failures:
            seconds = time.monotonic() - begin
            rows = f"{storm.sequences} sequences each once and to the bit as undisturbed"
            print(f"\n{number} kills, {rows}, {seconds:.0f} s")
        return 1 if storm.failures else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
