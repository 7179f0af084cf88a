"""A server of several replicas on Ray Serve: it answers while one is killed, from shards too, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
import yaml

from raypipe.cli import run
from raypipe.errors import UsageError
from tests.runs import CONSOLE, done, started

pytestmark = pytest.mark.slow
REPLICA = "ray::ServeReplica"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few sequences and an index, by nano."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "in.fa").write_text(">s1\nGGGCCCAAAUUU\n>s2\nACGUACGUACGU\n>s3\nGGGGCCCCAAAA\n")
    for verb in (["embed", str(folder / "in.fa"), "-o", str(folder / "atlas"), "--executor", "inline"],):
        assert run(verb) == 0
    assert run(["index", str(folder / "atlas")]) == 0
    return folder / "atlas"


@pytest.mark.timeout(280)
def test_a_replica_is_killed_and_no_request_fails(atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("abcdefgh12345678\n")
    options = ["--ray", "--replicas", "2", "--port", "0", "--token-file", str(tmp_path / "tokens")]
    command = [*CONSOLE, "serve", str(atlas), *options, "--cpus-per-replica", "0.5"]
    token = {"Authorization": "Bearer abcdefgh12345678"}
    statuses: list[int | str] = []
    stop = threading.Event()
    with started(command, cwd=tmp_path) as server:
        assert server.process.stdout is not None
        url = server.process.stdout.readline().strip()
        assert httpx2.post(f"{url}/v1/search", json={"ids": ["s1"]}).status_code == 401

        def ask(body: dict[str, object]) -> None:
            with httpx2.Client(base_url=url, headers=token, timeout=60) as client:
                while not stop.is_set():
                    try:
                        answer = client.post("/v1/search", json=body)
                        statuses.append(answer.status_code)
                    except httpx2.HTTPError as error:
                        statuses.append(repr(error))

        bodies = [{"ids": ["s1"], "k": 2}, {"sequences": "GGGCCCAAAUUU", "k": 2}] * 2
        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        time.sleep(3)
        before = server.processes(REPLICA)
        assert len(before) == 2, before
        killed = min(before)
        asked = len(statuses)
        os.kill(killed, signal.SIGKILL)
        server.wait_for(lambda: len(server.processes(REPLICA).keys() - before.keys()) == 1, 90)
        time.sleep(5)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert len(statuses) > asked + 50
        assert {status: statuses.count(status) for status in set(statuses)} == {200: len(statuses)}
        os.kill(server.process.pid, signal.SIGTERM)
        server.wait(90)
    assert server.code == 0, server.err
    said = [json.loads(line)["message"] for line in server.lines if line.startswith("{")]
    assert said == ["serving", "draining", "stopped"]


@pytest.mark.timeout(280)
def test_shards_behind_a_replica(atlas: Path, tmp_path: Path) -> None:
    command = [*CONSOLE, "serve", str(atlas), "--ray", "--shards", "1", "--port", "0", "--cpus-per-replica", "0.5"]
    with started(command, cwd=tmp_path) as server:
        assert server.process.stdout is not None
        url = server.process.stdout.readline().strip()
        answer = httpx2.post(f"{url}/v1/search", json={"ids": ["s1"], "k": 3}, timeout=60).json()
        assert (answer["hits"][0]["id"], answer["how"]["shards"], len(answer["hits"])) == ("s1", 1, 3)


STANDING = """
import sys, time, ray
from ray import serve
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "0.0.0.0", "port": int(sys.argv[1])})
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(600)
"""


@pytest.mark.timeout(280)
def test_a_ray_serve_that_runs_already_keeps_its_address_and_needs_tokens_for_it(atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("abcdefgh12345678\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started([sys.executable, "-c", STANDING, str(port)], cwd=tmp_path) as standing:
        assert standing.process.stdout is not None
        command = [*CONSOLE, "serve", str(atlas), "--ray", "--address", standing.process.stdout.readline().strip()]
        ran = done(command, cwd=tmp_path)
        assert (ran.code, "listens on 0.0.0.0" in ran.err) == (2, True), ran.err
        command += ["--token-file", str(tmp_path / "tokens"), "--cpus-per-replica", "0.5"]
        with started(command, cwd=tmp_path) as server:
            assert server.process.stdout is not None
            assert server.process.stdout.readline().strip() == f"http://0.0.0.0:{port}"
            answer = httpx2.get(f"http://127.0.0.1:{port}/v1/info", timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_what_cannot_be_served_is_said_at_once(atlas: Path, tmp_path: Path) -> None:
    ran = done([*CONSOLE, "serve", str(atlas), "--ray", "--host", "0.0.0.0"], cwd=tmp_path)
    assert (ran.code, "only with tokens" in ran.err) == (2, True)
    ran = done([*CONSOLE, "serve", str(tmp_path), "--ray"], cwd=tmp_path)
    assert (ran.code, "not an atlas" in ran.err) == (1, True)


def test_the_deployment_file_is_one(root: Path, atlas: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from raypipe.serve.ray_app import build

    given = yaml.safe_load((root / "configs" / "serve-deploy.yaml").read_text())
    described = ServeDeploySchema.model_validate(given)
    assert (described.http_options.host, described.applications[0].import_path) == (
        "127.0.0.1",
        "raypipe.serve.ray_app:build",
    )
    made = build({"atlas": str(atlas), "config": str(root / "configs" / "serve.yaml"), "replicas": 3})
    assert made._bound_deployment.num_replicas == 3
    with pytest.raises(UsageError, match="colour"):
        build({"atlas": str(atlas), "colour": "red"})
    with pytest.raises(UsageError, match="cannot be read"):
        build({"atlas": str(atlas), "config": "/nowhere.yaml"})
