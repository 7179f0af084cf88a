"""What the client does where a server is slow, busy, broken, strange or not there; against real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import raypipe
from raypipe import AtlasError, UsageError
from raypipe.client import lines
from raypipe.client.lines import TOKEN
from tests.served import reply, saying, served

Answer = Callable[[BaseHTTPRequestHandler, int], None]
INFO = json.dumps({"records": 7}).encode()


def good(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, INFO, content_type="application/json")


def bad(request: BaseHTTPRequestHandler, status: int, code: str, **headers: str) -> None:
    body = {"code": code, "message": "not now", "hint": "later", "request_id": "abc"}
    reply(request, status, json.dumps(body).encode(), content_type="application/json", **headers)


def cut(request: BaseHTTPRequestHandler) -> None:
    """Hang up without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short; what a server asks for is waited for all the same."""
    monkeypatch.setattr(lines, "FIRST_PAUSE", 0.01)


def info_of(url: str, **options: Any) -> dict[str, Any]:
    with raypipe.connect(url, **options) as atlas:
        return atlas.info()


def info_awaited(url: str, **options: Any) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with await raypipe.connect_async(url, **options) as atlas:
            return await atlas.info()

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [info_of, info_awaited])


@both
@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_it_is_asked_to(ask: Callable[..., dict[str, Any]], status: int) -> None:
    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        good(request) if number > 1 else bad(request, status, "busy", Retry_After="0.4")

    with saying(answer) as (url, asked):
        begin = time.monotonic()
        assert ask(url)["records"] == 7
        assert 0.4 <= time.monotonic() - begin < 3
    assert asked == ["/v1/info", "/v1/info"]


@both
def test_connections_that_are_cut_are_made_anew(ask: Callable[..., dict[str, Any]], quick: None) -> None:
    with saying(lambda request, number: good(request) if number > 2 else cut(request)) as (url, asked):
        assert ask(url)["records"] == 7
    assert len(asked) == 3


@both
@pytest.mark.parametrize(
    ("answer", "code", "words", "attempts"),
    [
        (lambda request, _: bad(request, 503, "unavailable"), "unavailable", "not now; later", 3),
        (lambda request, _: bad(request, 503, "unavailable", Retry_After="3600"), "unavailable", "not now", 1),
        (lambda request, _: bad(request, 422, "invalid"), "invalid", "not now; later", 1),
        (lambda request, _: bad(request, 500, "internal"), "internal", "not now; later", 1),
        (lambda request, _: cut(request), "unreachable", "cannot be reached", 3),
        (lambda request, _: reply(request, 502, b"<html>Bad Gateway"), "unreachable", "HTTP 502", 1),
        (lambda request, _: reply(request, 404, b"nothing here"), "unreachable", "does `raypipe serve` answer", 1),
        (lambda request, _: reply(request, 401, b"proxy"), "unauthorized", "HTTP 401", 1),
        (lambda request, _: reply(request, 200, b"<html>Welcome"), "unreachable", "not raypipe's", 1),
        (lambda request, _: reply(request, 302, b"", Location="/x"), "unreachable", "HTTP 302", 1),
    ],
)
def test_what_goes_wrong_is_said(
    ask: Callable[..., dict[str, Any]], quick: None, answer: Answer, code: str, words: str, attempts: int
) -> None:
    with saying(answer) as (url, asked), pytest.raises(AtlasError) as caught:
        ask(url, retries=2)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert len(asked) == attempts
    if "not now" in words:
        assert (caught.value.message, caught.value.hint) == ("not now", "later")
        assert caught.value.request_id == "abc"
        assert caught.value.status in (422, 500, 503)
        assert ("(request abc)" in str(caught.value)) == (caught.value.status != 422)


@both
def test_no_answer_in_time_is_not_asked_for_again(ask: Callable[..., dict[str, Any]]) -> None:
    """It would take as long once more."""
    over = threading.Event()

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        over.wait(10)
        cut(request)

    with saying(answer) as (url, asked):
        begin = time.monotonic()
        try:
            with pytest.raises(AtlasError, match=r"no answer within 0.2 s; ask for less") as caught:
                ask(url, timeout=0.2)
        finally:
            over.set()
        assert time.monotonic() - begin < 3
    assert caught.value.code == "timeout"
    assert len(asked) == 1


@both
def test_nobody_there(ask: Callable[..., dict[str, Any]], quick: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(AtlasError, match="cannot be reached") as caught:
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}", retries=1)
    assert caught.value.code == "unreachable"
    assert "raypipe serve" in (caught.value.hint or "")


def test_parts_of_arrow_and_nonsense_are_no_answers(quick: None) -> None:
    kind = "application/vnd.apache.arrow.stream"
    for body in (b"", b"ARROW1 and so on", b"\xff\xff\xff\xff\x10\x00\x00\x00"):
        with (
            saying(lambda request, _, body=body: reply(request, 200, body, content_type=kind)) as (url, _),
            raypipe.connect(url) as atlas,
            pytest.raises(AtlasError, match="not raypipe's"),
        ):
            atlas.sql("SELECT 1")


def test_one_connection_serves_many_calls() -> None:
    ports: set[int] = set()

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        ports.add(request.client_address[1])
        good(request)

    with saying(answer) as (url, asked), raypipe.connect(url) as atlas:
        for _ in range(5):
            atlas.info()
    assert len(asked) == 5
    assert len(ports) == 1


def test_tokens(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text("right-token-0123456789\n")
    file.chmod(0o600)
    with served(finished, token_file=str(file)) as url:
        monkeypatch.delenv(TOKEN, raising=False)
        for ask in (info_of, info_awaited):
            for token in (None, "wrong"):
                with pytest.raises(AtlasError) as caught:
                    ask(url, token=token)
                assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
                assert "right-token" not in str(caught.value)
            assert ask(url, token="right-token-0123456789")["records"] == 7
        monkeypatch.setenv(TOKEN, "right-token-0123456789")
        assert info_of(url)["records"] == 7
        assert "right-token" not in repr(raypipe.connect(url))


CLIENT = """
import asyncio, sys
import raypipe

async def ask(url):
    async with await raypipe.connect_async(url) as atlas:
        return [row["id"] for row in (await atlas.search(ids=["s1"], k=2)).to_pylist()]

with raypipe.connect(sys.argv[1]) as atlas:
    hits = atlas.search(["GGGCCCAAAUUU", "ACGU"], k=2, where="length > 0")
    assert len(hits) == 4 and hits.to_pandas().shape[0] == 4
    hits.write("hits.tsv")
    assert atlas.embed("ACGU").shape == (1, 16)
    assert atlas.get(["u1"]).to_pylist()[0]["length"] == 18
    assert atlas.sql("SELECT count(*) AS n FROM records").to_pylist() == [{"n": 7}]
    assert atlas.info()["records"] == 7
assert asyncio.run(ask(sys.argv[1]))[0] == "s1"
print([name for name in ("model", "index", "torch", "ray", "faiss", "duckdb") if name in sys.modules])
"""


def test_nothing_of_the_server_is_needed_in_a_folder_of_the_users(finished: Path, tmp_path: Path) -> None:
    """Not the engines, nor what is called as the user's own modules are."""
    for name in ("model.py", "index.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    with served(finished) as url:
        ran = subprocess.run([sys.executable, "-c", CLIENT, url], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr
    assert (tmp_path / "hits.tsv").read_text().startswith("query\trank\tid\tscore")


def test_what_cannot_be_meant(finished: Path) -> None:
    with pytest.raises(UsageError, match="is no server, so it takes no token"):
        raypipe.connect(finished, token="x")
    with pytest.raises(UsageError, match="holds blanks"):
        raypipe.connect("http://127.0.0.1:1", token="a b\n")
    with pytest.raises(UsageError, match="timeout 0"):
        raypipe.connect("http://127.0.0.1:1", timeout=0)
    for url in ("http://[bad", "http://", "http://host:port", "http://host?x=1"):
        with pytest.raises(UsageError, match="no address of a server"):
            raypipe.connect(url)
    with pytest.raises(UsageError, match=r"http://\.\.\.@host: give a token by token=") as caught:
        raypipe.connect("http://me:secret@host")
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be sent to a server as JSON"):
        raypipe.connect("http://127.0.0.1:1").sql("SELECT ?", [object()])


def test_ctrl_c_waits_for_no_answer() -> None:
    over = threading.Event()

    def answer(request: BaseHTTPRequestHandler, number: int) -> None:
        if request.path == "/v1/info":
            limits = json.dumps({"limits": {"max_queries": 5}}).encode()
            reply(request, 200, limits, content_type="application/json")
        else:
            over.wait(60)

    with saying(answer) as (url, asked):
        code = "import sys, raypipe; raypipe.connect(sys.argv[1]).get(['a'] * 20)"
        process = subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 30
            while asked.count("/v1/records") < 2:
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert b"KeyboardInterrupt" in process.communicate(timeout=10)[1]
        finally:
            process.kill()
            over.set()


@both
def test_a_limit_is_said(ask: Callable[..., dict[str, Any]], finished: Path) -> None:
    """And one query that does not fit alone is refused by the server in its own words."""
    with served(finished, max_rows=2, max_k=5, max_length=100) as url, raypipe.connect(url) as atlas:
        assert ask(url)["limits"]["max_k"] == 5
        rows = atlas.sql("FROM records")
        assert (len(rows), rows.truncated) == (2, True)
        assert not atlas.sql("FROM records LIMIT 2").truncated
        for question in ({"k": 6}, {"sequences": "ACGU" * 26}):
            with pytest.raises(AtlasError) as caught:
                len(atlas.search(**{"sequences": "ACGU", **question}))
            assert (caught.value.code, caught.value.status) == ("too_large", 413)
