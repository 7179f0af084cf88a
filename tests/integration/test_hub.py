"""Models of the hub: fetched once on every node, checked, pinned to a commit; GenBio's converted once.

The hub is a real server on this machine, a node is a pair of cache folders, and what runs there are processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.store import Store
from model import fingerprint, load
from model.convert import convert
from raypipe import hub as hub_module
from raypipe.checkpoints import find_on_node
from raypipe.cli import DONE
from raypipe.errors import RaypipeError
from tests.hub import Hub, serving
from tests.integration.conftest import Cli, make_checkpoint
from tests.integration.test_bad_model import genbio
from tests.runs import CONSOLE, write_fasta

WEIGHTS = "model.safetensors"
FIND = """
import json, sys
from dataclasses import asdict
from raypipe.checkpoints import find_checkpoint
from raypipe.errors import RaypipeError
try:
    found = asdict(find_checkpoint(sys.argv[1]))
    print(json.dumps({name: found[name] for name in ("asked", "name", "path", "fingerprint")}))
except RaypipeError as error:
    sys.exit(f"refused: {error}")
"""
# What Ray runs in a process of its own: one actor, one shard.
ACT = """
import sys
from index.store import Store
from raypipe.actors import Job, ShardActor
from raypipe.outputs import Ask
from raypipe.plan import Task, read_plan
store = Store.open(sys.argv[1])
(made,) = store.embeddings.values()
shard = read_plan(store, made)[int(sys.argv[2])]
task = Task(shard.number, shard.seq_lo, shard.seq_hi, shard.tokens, (shard.number,))
receipt = ShardActor(Job(str(store.root), (made,), "float32", "cpu", 1, Ask("window", None))).run(task)
print(receipt.rows, receipt.error)
"""
# Dies as a process that is killed in the middle of writing the weights.
DIE = """
import os, signal
import model.checkpoint
model.checkpoint.save_file = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_fetched(hub: Hub) -> None:
    hub.fetched.clear()


def script(text: str, *arguments: object) -> list[str]:
    """The command that runs a Python script."""
    return [sys.executable, "-c", text, *map(str, arguments)]


def run(hub: Hub, home: Path, *commands: list[str], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Commands that run at the same time on the node whose caches lie below `home`."""
    about = {**os.environ, **hub.environment(home), **environment}
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, env=about, cwd=home.parent, stdout=pipe, stderr=pipe, text=True)
        for command in commands
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


def find(hub: Hub, home: Path, model: str, **environment: str) -> dict[str, str]:
    """What `find_checkpoint` says there."""
    (ran,) = run(hub, home, script(FIND, model), **environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def refused(hub: Hub, home: Path, model: str) -> str:
    """Why `find_checkpoint` refuses a model there."""
    (ran,) = run(hub, home, script(FIND, model))
    assert ran.returncode == 1
    return ran.stderr.split("refused: ")[1]


def test_every_node_fetches_for_itself_and_once(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push("lab/one", make_checkpoint(tmp_path / "published", 11))
    driver, node, atlas = tmp_path / "driver", tmp_path / "node", tmp_path / "atlas"
    write_fasta(tmp_path / "in.fa", 40, 20, 60)
    options = ["--model", "lab/one", "--executor", "inline", "--shard-tokens", "600"]
    (made,) = run(hub, driver, [*CONSOLE, "embed", "in.fa", "-o", "atlas", *options])
    assert made.returncode == 0, made.stderr
    assert made.stderr.splitlines()[0] == f"fetching lab/one from {hub.address}"
    # The store knows it as every machine can have it, whatever the branch holds later.
    assert Store.open(atlas).embeddings["one"].model == f"lab/one@{commit}"
    hub.push("lab/one", make_checkpoint(tmp_path / "later", 12))
    parts = sorted((atlas / "embeddings/one").glob("part-*.parquet"))
    assert len(parts) > 2
    before = {path: path.read_bytes() for path in parts[:2]}
    for path in before:
        path.unlink()
    # Two actors of a node that has neither the driver's folder nor the files.
    driver.rename(tmp_path / "elsewhere")
    hub.fetched.clear()
    for ran in run(hub, node, *(script(ACT, atlas, number) for number in range(2))):
        assert re.fullmatch(r"\d+ \n", ran.stdout), ran.stdout + ran.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert hub.fetched == {"config.json": 1, "vocab.txt": 1, WEIGHTS: 1}
    # A search there asks for the model by this name.
    hub.fetched.clear()
    made_by = Store.open(atlas).embeddings["one"]
    found = find(hub, node, made_by.model, HF_HUB_OFFLINE="1")
    assert (found["fingerprint"], found["path"].startswith(str(node))) == (made_by.model_fingerprint, True)
    assert not hub.fetched


def test_revisions_and_the_cache(hub: Hub, tmp_path: Path) -> None:
    first = hub.push("lab/two", make_checkpoint(tmp_path / "first", 21))
    old = find(hub, tmp_path, "lab/two")
    second = hub.push("lab/two", make_checkpoint(tmp_path / "second", 22))
    new = find(hub, tmp_path, f"lab/two@{second}")
    assert (old["asked"], new["asked"]) == (f"lab/two@{first}", f"lab/two@{second}")
    assert old["fingerprint"] != new["fingerprint"]
    assert (old["name"], new["name"]) == ("two", "two")
    hub.fetched.clear()
    assert find(hub, tmp_path, f"lab/two@{first}", HF_HUB_OFFLINE="1") == old
    assert find(hub, tmp_path, "lab/two@main") == old  # as the cache knows it
    assert not hub.fetched
    for model in (f"lab/two@{'0' * 40}", "lab/nothing"):
        assert f"the files of {model.partition('@')[0]} are neither in the cache nor" in refused(hub, tmp_path, model)


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_what_came_damaged_is_refused(hub: Hub, tmp_path: Path, damage: str) -> None:
    hub.push("lab/three", make_checkpoint(tmp_path / "three", 31))
    getattr(hub, damage).add(WEIGHTS)
    try:
        why = refused(hub, tmp_path, "lab/three")
        assert (f"{WEIGHTS} is damaged" if damage == "flipped" else "Consistency check failed") in why
        assert len(why.strip().splitlines()) == 1
    finally:
        getattr(hub, damage).clear()
    # It counts for nothing, and the whole file takes its place.
    path = Path(find(hub, tmp_path, "lab/three")["path"])
    assert (path / WEIGHTS).read_bytes() == (tmp_path / "three" / WEIGHTS).read_bytes()
    # On the disk of the cache, too.
    blob = (path / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert f"{WEIGHTS} is damaged" in refused(hub, tmp_path, "lab/three")


def test_genbio_files_are_converted_once(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push("genbio-ai/AIDO.RNA-650M", genbio(tmp_path / "published"))
    pinned = f"genbio-ai/AIDO.RNA-650M@{commit}"
    home = tmp_path / "raypipe" / "converted" / "genbio-ai--AIDO.RNA-650M"
    (killed,) = run(hub, tmp_path, script(DIE + FIND, "aido.rna-650m"))
    assert killed.returncode == -9
    assert [path.name.startswith(f".{commit}-U-1.") for path in home.iterdir() if path.is_dir()] == [True]
    ran = run(hub, tmp_path, script(FIND, "aido.rna-650m"), script(FIND, pinned))
    assert [one.returncode for one in ran] == [0, 0], ran[0].stderr + ran[1].stderr
    one, other = (json.loads(each.stdout) for each in ran)
    assert one == other
    assert (one["asked"], one["name"], one["path"]) == (pinned, "aido.rna-650m", str(home / f"{commit}-U-1"))
    said = ran[0].stderr + ran[1].stderr
    assert said.count(f"converting {pinned} once, into {home}") == 1
    assert said.count("uracil takes GenBio's row of U: the rule for aido.rna-650m") == 1
    own = json.loads((Path(one["path"]) / "config.json").read_text())["raypipe"]
    assert (own["source"], own["source_layout"], own["u_row"]) == (pinned, "genbio", "U")
    assert {path.name for path in home.iterdir()} == {".lock", f"{commit}-U-1"}
    assert hub.fetched == {"config.json": 1, "pytorch_model.bin": 1}
    (again,) = run(hub, tmp_path, script(FIND, "genbio-ai/aido.rna-650m"), HF_HUB_OFFLINE="1")
    assert (json.loads(again.stdout), again.stderr) == (one, "")
    loaded = load(one["path"])
    assert (loaded.entry and loaded.entry.name, len(loaded.fill_mask("ACG<mask>"))) == ("aido.rna-650m", 5)
    # Every node that converts them has the same weights.
    convert(tmp_path / "published", tmp_path / "by hand", "U")
    assert fingerprint(tmp_path / "by hand") == one["fingerprint"]


def test_genbio_files_of_unknown_uracil(hub: Hub, tmp_path: Path, cli: Cli) -> None:
    hub.push("genbio-ai/AIDO.RNA-25M-MARS", genbio(tmp_path / "published"))
    why = refused(hub, tmp_path, "aido.rna-25m-mars")
    assert "genbio-ai/AIDO.RNA-25M-MARS: is in GenBio's layout; convert it once" in why
    command = why.split(": raypipe ")[1].split()
    assert cli(*command[:-1], tmp_path / "chosen", "--u-row", "T").code == DONE
    assert "say with --u-row U or --u-row T" in cli(*command[:-1], tmp_path / "other").err


def test_a_folder_that_a_node_lacks_or_has_otherwise(tmp_path: Path, tiny: Path, other: Path) -> None:
    with pytest.raises(RaypipeError, match=rf"/gone: {os.uname().nodename} has no such folder; put the model where"):
        find_on_node("/gone", "/gone", "0" * 64)
    copy = shutil.copytree(other, tmp_path / "model")
    assert find_on_node(str(copy), str(copy), fingerprint(other)) == str(copy)
    with pytest.raises(RaypipeError, match="holds another model than when and where the run was started"):
        find_on_node(str(copy), str(copy), fingerprint(tiny))
    assert find_on_node("nano", "nano", fingerprint("nano")) == "nano"


def test_a_download_that_goes_on_is_no_standstill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "LOOK_SECONDS", 0.02)
    ticks: list[int] = []

    def wait_for(number: int) -> None:
        end = time.monotonic() + 30
        while len(ticks) < number:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    with hub_module._watched(tmp_path / "blobs", lambda: ticks.append(1)):
        (tmp_path / "blobs").mkdir()
        for number in range(1, 4):
            with (tmp_path / "blobs" / "0123.incomplete").open("a") as file:
                file.write("more")
            wait_for(number)
        seen = len(ticks)
        time.sleep(0.3)
        # The clock goes on where nothing comes.
        assert len(ticks) <= seen + 1
