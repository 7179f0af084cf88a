"""The server over HTTP: what is answered, what is refused, and what is told of it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pyarrow as pa
import pytest

import raypipe
from raypipe.cli import FAILED, USAGE
from raypipe.errors import UsageError
from raypipe.serve.app import create_app
from raypipe.serve.settings import ServeSettings
from tests.integration.conftest import Cli
from tests.served import served

S1 = "GGGCCCAAAUUU"
T1 = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCC"
ARROW = "application/vnd.apache.arrow.stream"
LIMITS = {
    "max_length": 100,
    "max_nucleotides": 300,
    "max_queries": 5,
    "max_k": 50,
    "max_hits": 100,
    "max_body_mib": 0.01,
}


@pytest.fixture(scope="module")
def url(finished: Path) -> Iterator[str]:
    with served(finished, **LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20) as client:
        yield client


def opened(url: str) -> socket.socket:
    """A connection without a client that knows better."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def head(path: str, length: int) -> bytes:
    """The beginning of a request with a body of so many bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def read_arrow(answer: httpx2.Response) -> tuple[pa.Table, dict[str, Any]]:
    with pa.ipc.open_stream(answer.content) as reader:
        table = reader.read_all()
    return table, json.loads(table.schema.metadata[b"raypipe"])


def test_json_and_arrow_say_what_the_folder_says(finished: Path, http: httpx2.Client) -> None:
    with raypipe.connect(finished) as atlas:
        expected = atlas.search(S1, k=3, where="family IS NOT NULL")
        vector = atlas.embed(S1)
        asked = {"k": 3, "where": "family IS NOT NULL"}
        said = http.post("/v1/search", json={"sequences": S1, **asked}).json()
        assert said["hits"] == expected.to_pylist()
        assert said["how"] == expected.how
        streamed = http.post("/v1/search", json={"sequences": S1, **asked}, headers={"Accept": ARROW})
        table, beside = read_arrow(streamed)
        assert table.to_pylist() == expected.to_pylist()
        assert beside == {"how": expected.how}
        column = pa.FixedSizeListArray.from_arrays(pa.array(vector.reshape(-1)), vector.shape[1])
        sent = pa.table({"vector": column, "query": ["query_1"]}).replace_schema_metadata(
            {"raypipe": json.dumps(asked)}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, sent.schema) as writer:
            writer.write_table(sent)
        by_vector = http.post("/v1/search", content=sink.getvalue().to_pybytes(), headers={"Content-Type": ARROW})
        assert by_vector.json()["hits"] == expected.to_pylist()


def test_vectors_in_both_forms(http: httpx2.Client) -> None:
    for path, body in (("/v1/embed", {"sequences": [S1, "ACGU"]}), ("/v1/vectors", {"ids": ["s1", "u1"]})):
        said = http.post(path, json=body).json()
        assert (len(said["embeddings"]), said["dimension"], said["model"]) == (2, 16, "tiny")
        table, beside = read_arrow(http.post(path, json=body, headers={"Accept": ARROW}))
        rows = table["embedding"].to_pylist()
        assert np.array_equal(np.float32(rows), np.float32(said["embeddings"]))
        assert beside == {"model": "tiny", "dimension": 16}


def test_sql_and_records(http: httpx2.Client) -> None:
    query = {"query": "SELECT sum(length) AS n, 0/0 AS nan, $x AS x FROM sequences", "params": {"x": "é"}}
    said = http.post("/v1/sql", json=query).json()
    assert [column["name"] for column in said["columns"]] == ["n", "nan", "x"]
    assert (said["rows"][0][0], said["rows"][0][2], said["truncated"]) == (173, "é", False)
    assert said["rows"][0][1] is None
    (copy,) = http.get("/v1/records/copy").json()["records"]
    assert (copy["sequence"], copy["description"]) == (S1, "the sequence of s1")
    assert len(http.post("/v1/records", json={"ids": ["t1", "copy"]}).json()["records"]) == 3


def test_info_tells_limits_and_no_places(http: httpx2.Client, finished: Path) -> None:
    answer = http.get("/v1/info")
    about = answer.json()
    assert (about["records"], about["sequences"], about["index"]["version"]) == (7, 6, "000001")
    assert about["limits"] == {**LIMITS, "max_rows": 10_000, "sql": True}
    assert about["server"] == {"version": raypipe.__version__}
    assert str(finished.parent) not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({}, 422, "invalid", "give exactly one of sequences, ids and vectors"),
        ({"sequences": S1, "ids": ["s1"]}, 422, "invalid", "give exactly one of sequences, ids and vectors"),
        ({"sequence": S1}, 422, "invalid", "sequence: Extra inputs are not permitted"),
        ({"sequences": "A\0"}, 422, "invalid", "holds a NUL"),
        ({"ids": []}, 422, "invalid", "ids: List should have at least 1 item"),
        ({"ids": ["s1"], "k": 0}, 422, "invalid", "k: Input should be greater than or equal to 1"),
        ({"ids": ["s1"], "k": "10"}, 422, "invalid", "k: Input should be a valid integer"),
        ({"ids": ["s1"], "k": 51}, 413, "too_large", "k is 51; this server gives 50"),
        ({"ids": ["s1"] * 6}, 413, "too_large", "6 queries; this server takes 5"),
        ({"ids": ["s1"] * 4, "k": 30}, 413, "too_large", "4 queries with 30 hits each; this server gives 100"),
        ({"sequences": "A" * 101}, 413, "too_large", "a sequence of 101 nt; this server takes 100"),
        ({"sequences": ["A" * 100] * 4}, 413, "too_large", "400 nt in all; this server takes 300"),
        ({"sequences": "A" * 20_000}, 413, "too_large", "the body has more than 10,485 bytes"),
        ({"sequences": "MKL"}, 400, "usage", "query_1 ('MKL'): letter 'L' at position 3"),
        ({"sequences": []}, 400, "usage", "no query"),
        ({"ids": ["nobody"]}, 404, "not_found", "no record with id nobody"),
        ({"ids": ["s1"], "where": "nothing = 1"}, 422, "invalid", "no column 'nothing'"),
        ({"ids": ["s1"], "columns": ["nothing"]}, 422, "invalid", "no column 'nothing'"),
        ({"ids": ["s1"], "names": ["a", "b"]}, 400, "usage", "2 names for 1 queries"),
        ({"vectors": []}, 400, "usage", "no query"),
        ({"vectors": [[]]}, 422, "invalid", "this index holds vectors of 16 values"),
        ({"vectors": [[1e39] * 16]}, 422, "invalid", "zero or not finite"),
        ({"vectors": [[1.0]]}, 422, "invalid", "this index holds vectors of 16 values"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, 422, "invalid", "vectors of different lengths"),
        ({"vectors": [[0.0] * 16]}, 422, "invalid", "zero or not finite"),
    ],
)
def test_searches_that_cannot_be_done(
    http: httpx2.Client, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    answer = http.post("/v1/search", json=body)
    said = answer.json()
    assert (answer.status_code, said["code"]) == (status, code), said
    assert words in said["message"]
    assert said["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v1/nothing", None, 404, "nothing under this path"),
        ("GET", "/v1/search", None, 405, "allowed: POST"),
        ("GET", "/v1/records/nobody", None, 404, "no record called 'nobody'"),
        ("GET", "/v1/records/X52392.1%2F1-74", None, 404, "no record called 'X52392.1/1-74'"),
        ("POST", "/v1/search", b"{", 422, "Invalid JSON"),
        ("POST", "/v1/predict", {"sequences": S1, "heads": ["/etc/passwd"]}, 400, "not a file"),
        ("POST", "/v1/predict", {"sequences": S1, "heads": ["nothing"]}, 422, "nothing"),
        ("POST", "/v1/fill-mask", {"sequences": "ACGU"}, 400, "has no <mask>"),
        ("POST", "/v1/sql", {"query": "DROP TABLE records"}, 422, "give one SELECT"),
        ("POST", "/v1/sql", {"query": "FROM read_csv('/etc/passwd')"}, 422, "read_csv"),
        ("POST", "/v1/vectors", {"ids": ["s1"], "seq_ids": [0]}, 422, "exactly one of ids and seq_ids"),
    ],
)
def test_other_requests_that_cannot_be_answered(
    http: httpx2.Client, method: str, path: str, body: Any, status: int, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["message"]


def test_bodies_of_other_kinds_are_refused(http: httpx2.Client) -> None:
    body = json.dumps({"ids": ["s1"]}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # what a form of any web page may send
        answer = http.post("/v1/search", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "usage")
    for stream in (b"", b"no arrow", b"\xff\xff\xff\xff\x00\x00\x00\x00"):
        answer = http.post("/v1/search", content=stream, headers={"Content-Type": ARROW})
        assert (answer.status_code, answer.json()["code"]) == (400, "usage"), answer.text

    def pieces() -> Iterator[bytes]:  # without Content-Length
        yield from [b"x" * 1000] * 20

    answer = http.post("/v1/search", content=pieces(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_answers_are_no_larger_than_the_body_lets_expect(finished: Path) -> None:
    with served(finished, max_hits=6) as url, httpx2.Client(base_url=url, timeout=20) as http:

        def said(path: str, body: Any, kind: str = "application/json") -> tuple[int, str]:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = http.post(path, content=content, headers={"Content-Type": kind})
            return answer.status_code, answer.json().get("message", "")

        long = "n" * 1001  # which every hit would repeat
        for body in ({"ids": ["s1"], "names": [long]}, {"sequences": {long: S1}}):
            code, words = said("/v1/search", body)
            assert (code, "at most 1000 characters" in words) == (422, True), words
        assert said("/v1/search", {"ids": ["s1"], "names": [long[:1000]], "k": 1})[0] == 200
        # Two records are of one sequence.
        assert said("/v1/search", {"ids": ["s1"], "k": 6})[0] == 200
        code, words = said("/v1/search", {"ids": ["s1"], "k": 6, "expand_records": True})
        assert (code, "7 records; this server lists 6" in words) == (413, True), words
        assert said("/v1/search", {"ids": ["s1"], "k": 5, "expand_records": True})[0] == 200
        code, words = said("/v1/fill-mask", {"sequences": ["<mask>" * 1000] * 4, "top_k": 26})
        assert (code, "624,000,000 letters" in words) == (413, True), words
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(16, np.float32)), 16)
        settings = {"raypipe": json.dumps({"k": 1})}
        names = pa.array(["a"])
        for table, options, status, why in (
            ({"vector": column}, {"compression": "zstd"}, 400, "is compressed"),
            ({"vector": column}, {"compression": "lz4"}, 400, "is compressed"),
            ({"vector": column, "query": names.dictionary_encode()}, {}, 400, "has dictionaries"),
            ({"vector": column, "query": names.cast(pa.string_view())}, {}, 400, "send names as string"),
            ({"vector": column, "query": [long]}, {}, 422, "more than 1,000 characters"),
            ({"vector": column, "query": names}, {}, 422, "zero or not finite"),
        ):
            sink = pa.BufferOutputStream()
            sent = pa.table(table).replace_schema_metadata(settings)
            with pa.ipc.new_stream(sink, sent.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
                writer.write_table(sent)
            code, words = said("/v1/search", sink.getvalue().to_pybytes(), ARROW)
            assert (code, why in words) == (status, True), words


def test_requests_have_numbers(http: httpx2.Client) -> None:
    given = http.get("/healthz", headers={"X-Request-Id": "mine-1.2_3"})
    assert given.headers["x-request-id"] == "mine-1.2_3"
    made = [http.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(len(name) == 16 for name in made)


def test_other_names_of_this_machine_are_refused(http: httpx2.Client, finished: Path) -> None:
    refused = http.get("/healthz", headers={"Host": "rebound.example:8000"})
    assert (refused.status_code, refused.json()["code"]) == (400, "usage")
    assert http.get("/healthz", headers={"Host": "LOCALHOST:1"}).status_code == 200
    assert http.get("/healthz", headers={"Host": "[::1]:1"}).status_code == 200
    with served(finished, allowed_hosts=["rna.example"], cors_origins=["https://lab.example"]) as url:
        assert httpx2.get(f"{url}/healthz", headers={"Host": "rna.example"}).status_code == 200
        assert httpx2.get(f"{url}/healthz").status_code == 400
        asked = {"Host": "rna.example", "Origin": "https://lab.example"}
        allowed = httpx2.get(f"{url}/healthz", headers=asked).headers
        assert allowed["access-control-allow-origin"] == "https://lab.example"


def test_pages_of_others_may_not_ask(http: httpx2.Client) -> None:
    answer = http.get("/healthz", headers={"Origin": "https://lab.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_tokens(finished: Path, tmp_path: Path, http: httpx2.Client) -> None:
    file = tmp_path / "tokens"
    file.write_text("abcdefgh12345678 # of the lab\n")
    with served(finished, token_file=str(file)) as url:
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert httpx2.get(url + path).status_code == 200, path
        for path in ("/v1/info", "/metrics", "/v1/nothing"):
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abcdefgh12345678"}):
                answer = httpx2.get(url + path, headers=header)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer abcdefgh12345678"}
        assert httpx2.get(f"{url}/v1/info", headers=right).status_code == 200
        assert httpx2.get(f"{url}/metrics", headers=right).status_code == 200


def test_beyond_this_machine_only_with_tokens(cli: Cli, finished: Path, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(UsageError, match="only with tokens"):
            create_app(ServeSettings(atlas=str(finished), host=host))
    ran = cli("serve", finished, "--host", "0.0.0.0")
    assert (ran.code, ran.out) == (USAGE, "")
    assert "openssl rand -hex 32" in ran.err
    assert cli("serve", tmp_path).code == FAILED
    assert cli("serve", finished, "--replicas", "2").code == USAGE
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("serve", finished, "--port", taken.getsockname()[1])
    assert (ran.code, "choose another --port" in ran.err) == (FAILED, True)


def test_too_many_at_a_time_and_too_slow(finished: Path) -> None:
    body = json.dumps({"ids": ["s1"]}).encode()
    with served(finished, max_in_flight=1, request_seconds=0.5) as url:
        with opened(url) as slow:
            slow.sendall(head("/v1/search", len(body)) + body[:3])
            until = time.monotonic() + 10
            while (answer := httpx2.post(f"{url}/v1/search", json={"ids": ["s1"]})).status_code == 200:
                assert time.monotonic() < until
            assert (answer.status_code, answer.json()["code"]) == (429, "busy")
            assert answer.headers["retry-after"] == "1"
            assert b"504" in slow.recv(1 << 16).split(b"\r\n")[0]
        assert httpx2.post(f"{url}/v1/search", json={"ids": ["s1"]}).status_code == 200
        with opened(url) as cut:
            cut.sendall(head("/v1/search", len(body)) + body[:3])
        until = time.monotonic() + 10
        while httpx2.post(f"{url}/v1/search", json={"ids": ["s1"]}).status_code != 200:
            assert time.monotonic() < until


def test_the_log_tells_of_requests_but_not_their_sequences(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    def ask(**settings: Any) -> list[dict[str, Any]]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "raypipe.serve"), served(finished, **settings) as url:
            for path, body in (
                ("/v1/search", {"sequences": {"q": T1}, "k": 2}),
                ("/v1/search", {"sequences": T1 + "!"}),
                ("/v1/sql", {"query": f"SELECT '{T1}' AS q"}),
                (f"/v1/{T1}", {}),
            ):
                httpx2.post(url + path, json=body, headers={"X-Request-Id": "r1"})
        return [fields for record in caplog.records if (fields := getattr(record, "fields", None)) is not None]

    lines = [line for line in ask() if "route" in line]
    assert T1[:10] not in str(lines)
    assert [line["status"] for line in lines] == [200, 400, 200, 404]
    assert {line["request_id"] for line in lines} == {"r1"}
    assert (lines[0]["route"], lines[0]["sequences"], lines[0]["k"]) == ("/v1/search", 1, 2)
    assert lines[1]["code"] == "usage"
    assert "T1" not in str(lines)
    told = ask(log_sequences=True)
    assert str(told).count(T1) == 3


def test_numbers_for_prometheus(http: httpx2.Client) -> None:
    http.post("/v1/search", json={"ids": ["s1", "u1"]})
    text = http.get("/metrics").text
    for line in (
        'raypipe_requests_total{method="POST",route="/v1/search",status="200"} ',
        'raypipe_index_info{rows="6",type="Flat",version="000001"} 1.0',
        'raypipe_annotations_info{version="000001"} 1.0',
        'raypipe_batch_requests_count{what="search"} ',
        'raypipe_queries_total{kind="id"} ',
        "raypipe_encoder_waiting 0.0",
        "process_resident_memory_bytes ",
    ):
        assert line in text, line
