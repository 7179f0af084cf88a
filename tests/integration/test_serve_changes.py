"""What happens below a running server, and to it: new versions, lost files, locks, little memory, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from index.errors import StoreError
from model.errors import ModelError
from raypipe.errors import RaypipeError
from raypipe.serve.app import create_app
from raypipe.serve.live import ServedAtlas
from raypipe.serve.settings import ServeSettings
from tests.integration.conftest import Cli
from tests.integration.test_serve import S1, T1, head, opened
from tests.runs import CONSOLE, started
from tests.served import served

SECONDS = 20
BY_ID = {"ids": ["s1"], "k": 2}
WATCH = {"watch_seconds": 0.05}


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@contextmanager
def asked_all_the_time(url: str, body: dict[str, Any]) -> Iterator[list[httpx2.Response]]:
    """Two clients that ask without a pause; their answers so far."""
    answers: list[httpx2.Response] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=url, timeout=SECONDS) as client:
            while not stop.is_set():
                answers.append(client.post("/v1/search", json=body))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield answers
    stop.set()
    for thread in threads:
        thread.join(SECONDS)


def test_new_versions_are_taken_up_and_no_request_is_dropped(cli: Cli, atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.tsv").write_text("id\tcolour\ns1\tred\n")
    with served(atlas, **WATCH) as url, asked_all_the_time(url, BY_ID) as answers:
        eventually(lambda: len(answers) > 5)
        assert cli("index", atlas, "--type", "HNSW8", "--transform", "none", "--recall", "0.1").code == 0
        eventually(lambda: answers[-1].json()["how"]["version"] == "000002")
        assert cli("annotate", atlas, f"notes={tmp_path / 'notes.tsv'}").code == 0
        eventually(lambda: answers[-1].json()["hits"][0].get("colour") == "red")
        text = httpx2.get(f"{url}/metrics").text
        assert 'version="000002"' in text
        assert 'raypipe_index_info{rows="6",type="Flat",version="000001"}' not in text
        said = httpx2.post(f"{url}/v1/sql", json={"query": "SELECT colour FROM notes"}).json()
        assert said["rows"] == [["red"]]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["hits"][0]["id"] for answer in answers] == ["s1"] * len(answers)


def test_what_is_older_than_its_store_is_served_until_the_index_follows(cli: Cli, atlas: Path, tiny: Path) -> None:
    more = atlas.parent / "more.fa"
    more.write_text(">new\nGGGCCCAAAUUUG\n")
    with served(atlas, **WATCH) as url:
        assert cli("embed", more, "-o", atlas, "--executor", "inline", "--model", tiny).code == 0
        time.sleep(0.3)
        assert httpx2.post(f"{url}/v1/search", json=BY_ID).json()["how"]["rows"] == 6
        assert cli("index", atlas).code == 0
        eventually(lambda: httpx2.post(f"{url}/v1/search", json=BY_ID).json()["how"]["rows"] == 7)


def test_an_index_and_an_atlas_that_are_gone_and_come_back(atlas: Path) -> None:
    def status(body: dict[str, Any] = BY_ID, path: str = "/v1/search") -> tuple[int, str]:
        answer = httpx2.post(url + path, json=body, timeout=SECONDS)
        return answer.status_code, answer.json().get("code", "")

    with served(atlas, **WATCH) as url:
        assert status() == (200, "")
        shutil.move(atlas / "index", atlas.parent / "index")
        eventually(lambda: status() == (409, "no_index"))
        said = httpx2.post(f"{url}/v1/search", json=BY_ID).json()
        assert "no index yet; build one with: raypipe index" in said["message"]
        assert str(atlas) not in said["message"]
        assert status({"sequences": S1}, "/v1/embed") == (200, "")
        shutil.move(atlas.parent / "index", atlas / "index")
        eventually(lambda: status() == (200, ""))

        os.rename(atlas, atlas.with_name("away"))
        eventually(lambda: httpx2.get(f"{url}/v1/info").status_code == 503)
        assert status() == (503, "unavailable")
        answer = httpx2.get(f"{url}/v1/info")
        assert (answer.json()["message"], answer.headers["retry-after"]) == ("the atlas is gone from its place", "1")
        assert httpx2.get(f"{url}/readyz").status_code == 503
        assert httpx2.get(f"{url}/healthz").status_code == 200
        os.rename(atlas.with_name("away"), atlas)
        eventually(lambda: status() == (200, ""))
        assert httpx2.get(f"{url}/readyz").status_code == 200


def test_annotations_that_another_process_has_locked(atlas: Path) -> None:
    (file,) = (atlas / "annotations").glob("*.duckdb")
    code = f"import duckdb, sys; c = duckdb.connect({str(file)!r}); print('locked', flush=True); sys.stdin.readline()"
    filtered = {**BY_ID, "where": "family = 'tRNA'"}
    with served(atlas) as url:
        writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"locked\n"
            answer = httpx2.post(f"{url}/v1/search", json=filtered, timeout=SECONDS)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
            assert answer.headers["retry-after"] == "1"
            assert "another process writes to it" in answer.json()["message"]
        assert httpx2.post(f"{url}/v1/search", json=filtered).status_code == 200


def test_an_encoder_without_enough_memory(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = ServedAtlas.embed_here
    batches: list[int] = []

    def short(self: ServedAtlas, sequences: list[str]) -> Any:
        batches.append(len(sequences))
        if len(sequences) > 2 or T1 in sequences:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self, sequences)

    with served(finished) as url, httpx2.Client(base_url=url, timeout=SECONDS) as http:
        several = {"sequences": [S1, "ACGU", "ACGUACGU", "GGGG", "CCCCC"]}
        expected = http.post("/v1/embed", json=several).json()["embeddings"]
        monkeypatch.setattr(ServedAtlas, "embed_here", short)
        found = http.post("/v1/embed", json=several).json()["embeddings"]
        assert [pytest.approx(row, abs=1e-5) for row in expected] == found
        assert batches[0] == 5
        assert max(batches[1:]) <= 3
        answer = http.post("/v1/embed", json={"sequences": [S1, T1]})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "memory does not suffice" in answer.json()["message"]
        assert http.post("/v1/search", json={"sequences": S1}).status_code == 200
        assert "raypipe_batches_halved_total" in http.get("/metrics").text


def test_without_a_model_what_needs_none_is_answered(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ({"model": "/nowhere"}, {"device": "mars"}):  # what is asked for is had, or there is no server
        settings = ServeSettings.model_validate({"atlas": str(finished), **asked})
        with pytest.raises((RaypipeError, ModelError), match=r"no such folder|no device"):
            create_app(settings).state.service.open()

    def lost(*_: Any) -> None:
        raise StoreError("the model cannot be had now")

    monkeypatch.setattr("raypipe.atlas.load_encoder", lost)
    with served(finished) as url:
        answer = httpx2.post(f"{url}/v1/embed", json={"sequences": S1})
        assert (answer.status_code, answer.json()["message"]) == (503, "the model cannot be had now")
        vectors = httpx2.post(f"{url}/v1/vectors", json={"ids": ["s1"]}).json()
        assert (vectors["model"], vectors["dimension"]) == ("tiny", 16)
        assert httpx2.post(f"{url}/v1/search", json=BY_ID).status_code == 200


def test_whoever_goes_away_is_not_waited_for(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed, gate, given = ServedAtlas.embed_here, threading.Event(), []

    def held(self: ServedAtlas, sequences: list[str]) -> Any:
        given.extend(sequences)
        assert gate.wait(SECONDS)
        return embed(self, sequences)

    def post(sequence: str) -> bytes:
        body = json.dumps({"sequences": sequence}).encode()
        return head("/v1/embed", len(body)) + body

    with served(finished) as url, httpx2.Client(base_url=url, timeout=SECONDS) as http:
        monkeypatch.setattr(ServedAtlas, "embed_here", held)
        with opened(url) as stays, opened(url) as goes:
            stays.sendall(post("ACGU"))
            eventually(lambda: given == ["ACGU"])
            goes.sendall(post("GGGG"))
            eventually(lambda: "raypipe_encoder_waiting 6.0" in http.get("/metrics").text)
            goes.close()
            eventually(lambda: "raypipe_requests_in_flight 1.0" in http.get("/metrics").text)
            gate.set()
            assert stays.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert http.post("/v1/embed", json={"sequences": "CCCC"}).status_code == 200
        assert given == ["ACGU", "CCCC"]
        assert 'status="499"' in http.get("/metrics").text


def test_conditions_of_strangers_are_fenced(finished: Path) -> None:
    large = "range(1000000000000)"
    with served(finished, sql_seconds=1) as url, httpx2.Client(base_url=url, timeout=SECONDS) as http:
        for where, status in (
            ("length > 20", 200),
            (f"length > (SELECT count(*) FROM {large} a, {large} b WHERE a.range > b.range)", 504),
            ("id IN (SELECT content FROM read_text('/etc/passwd'))", 422),
            ("getenv('HOME') = 'x'", 422),
        ):
            answer = http.post("/v1/search", json={**BY_ID, "where": where})
            assert answer.status_code == status, answer.text
        answer = http.post("/v1/sql", json={"query": "FROM search('ACGU', k := 1000000000)"})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), answer.text
        answer = http.post("/v1/sql", json={"query": "FROM search('ACGU', k := 2, filter := 'length > 20')"})
        assert len(answer.json()["rows"]) == 2, answer.text


def test_the_end_comes_when_requests_in_flight_are_answered(finished: Path, tmp_path: Path) -> None:
    body = json.dumps({"sequences": {"q": T1}, "k": 1}).encode()
    with started([*CONSOLE, "serve", str(finished), "--port", "0"], cwd=tmp_path) as run:
        assert run.process.stdout is not None
        url = run.process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.get(f"{url}/readyz").json() == {"status": "ok"}
        with opened(url) as slow, httpx2.Client(base_url=url, timeout=SECONDS) as other:
            slow.sendall(head("/v1/search", len(body)) + body[:5])
            eventually(lambda: "raypipe_requests_in_flight 1.0" in other.get("/metrics").text)
            os.kill(run.process.pid, signal.SIGTERM)
            eventually(lambda: httpx2.get(f"{url}/readyz").status_code == 503)
            refused = httpx2.post(f"{url}/v1/search", json=BY_ID)
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert refused.headers["retry-after"] == "1"
            slow.sendall(body[5:])
            said = b""
            while piece := slow.recv(1 << 16):
                said += piece
        run.wait(SECONDS)
    assert said.startswith(b"HTTP/1.1 200")
    assert b'"id":"t1"' in said
    assert run.code == 0, run.err
    lines = [json.loads(line) for line in run.lines]
    assert [line["message"] for line in lines if line["message"] != "request"] == ["serving", "draining", "stopped"]
    assert T1[:12] not in run.err
