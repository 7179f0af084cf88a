"""`raypipe status`: how far a run is, from receipts and listings only, and without being in its way."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from index.receipts import append_receipts, newest_receipts, read_receipts, receipts_path
from index.store import Store
from raypipe.cli import DONE, FAILED, run
from raypipe.status import atlas_status
from tests.integration.conftest import Cli, Make


def test_a_finished_atlas(cli: Cli, finished: Path) -> None:
    ran = cli("status", finished, "--watch")  # ends by itself: nothing is left to watch
    assert (ran.code, ran.err) == (DONE, "")
    assert "7 records (0 rejected) from 1 source: 6 distinct sequences" in ran.out
    assert "writer       nobody (the last one was process" in ran.out
    assert "6 embedded and 0 failed of 6 sequences (100 %)" in ran.out
    told = json.loads(cli("status", finished, "--format", "json").out)
    (made,) = told["sets"]
    assert told["complete"]
    assert (made["folder"], made["shards_done"], made["unseen"]) == ("embeddings/tiny", made["shards"], 0)
    receipts = read_receipts(finished, Store.open(finished).embedding())
    assert sum(one.tokens for one in receipts) == made["tokens"] == made["tokens_done"]


def test_while_a_run_goes_on(cli: Cli, atlas: Path) -> None:
    store = Store.open(atlas)
    made = store.embedding()
    receipts = list(newest_receipts(atlas, made).values())
    path = receipts_path(atlas, made)
    path.unlink()
    now = time.time()
    first, *others = (replace(one, finished_at=now - 5, seconds=5.0) for one in receipts)
    lost = others.pop()
    (atlas / made.main / made.name / lost.files[made.main].name).unlink()
    died = replace(lost, files={}, rows=0, error="the worker died", host="node7")
    append_receipts(atlas, made, [first, *others[1:], replace(died, shard=first.shard), died])
    with store.lock():
        told = atlas_status(atlas, now)
        assert (told.writer and told.writer.writing, told.complete) == (True, False)
        assert atlas_status(atlas, now + 3600).sets[0].tokens_per_s == 0
        ran = cli("status", atlas)
    (state,) = told.sets
    assert (state.shards_done, state.unseen) == (len(receipts) - 1, 1)
    assert [one.shard for one in state.failures] == [lost.shard]  # the other was made in the end
    # Two of them in the last ten seconds; what is left at that rate.
    tokens = sum(one.tokens for one in [first, *others[1:]])
    assert state.tokens_per_s == pytest.approx(tokens / 10)
    assert state.seconds_left == pytest.approx(lost.tokens / (tokens / 10))
    assert "1 shards without a receipt" in ran.out
    assert f"is shard {lost.shard} on node7: the worker died" in ran.out
    assert " left" in ran.out
    # Nobody writes any more: nothing to wait for.
    (state,) = atlas_status(atlas, now).sets
    assert (state.seconds_left, state.tokens_per_s) == (None, 0)


def test_watching_ends_with_ctrl_c(
    atlas: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    next((atlas / "embeddings/tiny").glob("part-*")).unlink()
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("raypipe.cli.checking.time.sleep", wait)
    assert run(["status", str(atlas), "--watch", "--every", "0.5", "--format", "json"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert waited == [0.5] * 3
    assert [json.loads(line)["complete"] for line in lines] == [False] * 3


def test_before_the_first_run(cli: Cli, ingested: Make, tmp_path: Path) -> None:
    ran = cli("status", ingested())
    assert ran.code == DONE
    assert "nothing is embedded yet" in ran.out
    assert cli("status", tmp_path / "none").code == FAILED
