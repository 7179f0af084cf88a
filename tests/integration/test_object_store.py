"""An atlas in an object store: the command line against the S3 server of moto, a process of its own."""

from __future__ import annotations

import gzip
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import raypipe
from index.errors import UnreachableError
from index.parquet import read_parquet
from index.places import Place, RemotePath, place
from index.receipts import newest_receipts
from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.integration.conftest import Cli
from tests.made import index_file
from tests.runs import CONSOLE, done, free_ports, started, write_fasta

SERVER = Path(sys.executable).with_name("moto_server")


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int

    def call(self, method: str, path: str, body: bytes = b"") -> None:
        kind = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", body, kind, method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server that keeps all in its memory."""
    program = str(SERVER) if SERVER.exists() else shutil.which("moto_server")
    if program is None:
        pytest.skip("needs moto's server: pip install 'moto[s3]' flask flask-cors")
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("server") / "log"
    # Into a file: nobody reads what it says, and a full pipe would stop it.
    command = ["sh", "-c", 'exec "$@" >"$LOG" 2>&1', "sh", program, "-H", "127.0.0.1", "-p", str(port)]
    with started(command, cwd=log.parent, LOG=str(log)) as run:
        run.wait_for(lambda: _answers(port))
        yield Server(port)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a bucket of the test's own; the server's address and the credentials are in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "hushhush",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAYPIPE_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = f"b{time.monotonic_ns()}"
    server.call("PUT", name)
    return f"s3://{name}"


def remote(uri: str) -> RemotePath:
    found = place(uri)
    assert isinstance(found, RemotePath)
    return found


def vectors(store: Store) -> np.ndarray:
    parts = [
        read_parquet(path)["embedding"].combine_chunks().flatten().to_numpy()
        for path in store.set_parts(store.embedding())
    ]
    return np.concatenate(parts)


def objects(root: Place) -> set[str]:
    """All that stands below a folder, by names without their numbers of version."""
    found = set()
    for path in root.iterdir():
        found |= objects(path) if path.is_dir() else {str(path)}
    return found


def put_all(folder: Path, atlas: RemotePath) -> None:
    """Copy an atlas from a disk."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            (atlas / path.relative_to(folder).as_posix()).put(path)


def test_an_atlas_from_beginning_to_end(bucket: str, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """What a local run makes of the same sequences, killed in the middle too; then everything that is asked of it."""
    write_fasta(tmp_path / "one.fa", 30, 20, 40)
    text = write_fasta(tmp_path / "all.fa", 60, 20, 40).read_bytes()
    (tmp_path / "all.fa.gz").write_bytes(gzip.compress(text))
    remote(f"{bucket}/in/all.fa.gz").put(tmp_path / "all.fa.gz")
    atlas, options = f"{bucket}/my atlas", ["--model", tiny, "--executor", "inline", "--shard-tokens", 60]

    assert cli("ingest", "one.fa", "-o", atlas).code == DONE
    ran = cli("ingest", f"{bucket}/in/all.fa.gz", "-o", atlas)
    assert ran.code == DONE, ran.err
    assert "60 records, 30 new distinct sequences" in ran.err
    assert "nothing" in cli("ingest", f"{bucket}/in/all.fa.gz", "-o", atlas).err
    assert cli("embed", "one.fa", "all.fa.gz", "-o", "local", *options).code == DONE

    store = Store.open(atlas)
    command = [*CONSOLE, "embed", atlas, *map(str, options)]
    with started(command, cwd=tmp_path) as run:
        run.wait_for(lambda: len(list((store.root / "embeddings" / "tiny").glob("part-*"))) > 1)
        run.process.send_signal(signal.SIGKILL)
        run.wait()
    begun = len(list((store.root / "embeddings" / "tiny").glob("part-*")))
    ran = cli("embed", atlas, *options)
    assert ran.code == DONE, ran.err
    assert f"{begun} finished before" in ran.err
    store = Store.open(atlas)
    np.testing.assert_array_equal(vectors(store), vectors(Store.open("local")))
    shards = len(store.set_parts(store.embedding()))
    assert begun < shards == len(newest_receipts(store.root, store.embedding()))
    assert "nothing to embed" in cli("embed", atlas, *options).err

    (tmp_path / "families.tsv").write_text("id\tfamily\nr0\tx\nr5\ty\n")
    for root in (atlas, "local"):
        assert cli("index", root).code == DONE
        assert cli("annotate", root, "families=families.tsv").code == DONE
    query = ["--ids", "r5", "-k", 4, "--columns", "id,score,family"]
    found = cli("search", atlas, *query)
    assert found.code == DONE, found.err
    assert found.out == cli("search", "local", *query).out
    assert cli("search", atlas, "--ids", "r5", "--where", "family = 'x'").out.splitlines()[1].split("\t")[2] == "r0"
    counted = "SELECT count(*) AS n, sum(length) AS m FROM embeddings JOIN sequences USING (seq_id)"
    assert cli("sql", atlas, counted).out == cli("sql", "local", counted).out
    assert cli("sql", atlas, "FROM read_csv('/etc/passwd')").code == FAILED
    hits = raypipe.connect(atlas).search("GGGACGACUGACUGAC", k=3).to_pylist()
    assert hits == raypipe.connect("local").search("GGGACGACUGACUGAC", k=3).to_pylist()
    for root in (atlas, "local"):
        assert cli("neighbors", root, "-k", 5, "--batch", 25).code == DONE
    graph = {root: cli("sql", root, "FROM neighbors ORDER BY seq_id, rank").out for root in (atlas, "local")}
    assert graph[atlas] == graph["local"]
    assert len(graph[atlas].splitlines()) == 1 + 60 * 5
    families = ["--min-score", 0.2]
    assert cli("cluster", atlas, *families).out == cli("cluster", "local", *families).out != ""

    for what, file in (("embeddings", "v.npy"), ("hits", "h.tsv"), ("annotations", "a.csv")):
        for root, folder in ((atlas, "there"), ("local", "here")):
            Path(folder).mkdir(exist_ok=True)
            assert cli("export", root, "--what", what, "-o", f"{folder}/{file}").code == DONE
        assert Path("there", file).read_bytes() == Path("here", file).read_bytes()

    assert cli("verify", atlas, "--deep").out.count("ok") == 4
    status = cli("status", atlas)
    assert f"{shards} of {shards} shards" in status.out
    assert "cannot be told: an object store has no lock" in status.out
    assert cli("remove", atlas, "--ids", "r5").code == DONE
    assert "r5" not in cli("search", atlas, "--ids", "r0", "-k", 60, "--columns", "id").out.split()
    assert "blocks to make (" in cli("neighbors", atlas, "-k", 5).err
    assert "r5" not in cli("cluster", atlas, *families).out.split()
    # Nothing is left of files on their way, nothing that is secret is kept, and no folder is called after the URI.
    assert not [name for name in objects(store.root) if ".tmp" in name]
    manifest = (store.root / "store.json").read_text() + (store.root / "embeddings/tiny/receipts.jsonl").read_text()
    assert "hushhush" not in manifest
    assert not (tmp_path / "s3:").exists()


def test_copies_follow_the_atlas(
    bucket: str, cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An atlas from a disk; its index is copied back when it is asked, one built anew again, a damaged one never."""
    monkeypatch.setattr("index.copies.SPARED_SECONDS", -1)  # young ones go too, where nobody needs them
    atlas = remote(f"{bucket}/atlas")
    put_all(finished, atlas)
    query = ["--ids", "s1", "-k", 3]
    wanted = cli("search", finished, *query).out
    copies = tmp_path / "cache" / "stores"
    for version in (1, 2, 3):
        ran = cli("search", atlas, *query)
        assert ran.out == wanted, ran.err
        assert len(list(copies.glob("*/index/0*"))) == min(version, 2)
        assert len(list(copies.glob("*/index/segments/*/*/vectors.faiss"))) == 1
        assert cli("index", atlas, "--type", "flat" if version == 2 else "HNSW8").code == DONE
    shutil.rmtree(copies)
    vectors = index_file(atlas, "vectors.faiss")
    (tmp_path / "damaged").write_bytes(bytes(vectors.stat().st_size))
    remote(str(vectors)).put(tmp_path / "damaged")
    ran = cli("search", atlas, *query)
    assert ran.code == FAILED
    assert f"{vectors}: damaged" in ran.err
    assert not list(copies.glob("*/index/segments/*/*/vectors.faiss*"))
    assert cli("verify", atlas).code == INCOMPLETE
    assert "index 000005" in cli("index", atlas).err
    assert cli("search", atlas, *query).out == wanted
    (copy,) = copies.glob("*/index/segments/*/*/rows.npy")
    copy.write_bytes(bytes(copy.stat().st_size))
    assert cli("search", atlas, *query).out == wanted


@pytest.mark.parametrize("kind", ["segments", "trained"])
@pytest.mark.parametrize("lost", ["about.json", "vectors.faiss"])
def test_a_folder_that_was_put_in_part(bucket: str, cli: Cli, finished: Path, kind: str, lost: str) -> None:
    """As by a build that was killed while it put the files one by one: it is not taken for whole, and made again."""
    atlas = remote(f"{bucket}/atlas")
    put_all(finished, atlas)
    query = ["--ids", "s1", "-k", 3]
    wanted = cli("search", finished, *query).out
    (atlas / "index" / "CURRENT").unlink()
    (folder,) = (atlas / "index" / kind).iterdir()
    whole = (folder / lost).read_bytes()
    (folder / lost).unlink()
    assert "no index yet" in cli("search", atlas, *query).err
    assert cli("index", atlas).code == DONE
    assert (folder / lost).read_bytes() == whole
    assert cli("search", atlas, *query).out == wanted
    assert cli("verify", atlas, "--deep").code == DONE


def test_damage_is_found_and_mended(bucket: str, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    write_fasta(tmp_path / "in.fa", 30, 20, 40)
    atlas, options = f"{bucket}/atlas", ["--model", tiny, "--executor", "inline", "--shard-tokens", 200]
    assert cli("embed", "in.fa", "-o", atlas, *options).code == DONE
    store = Store.open(atlas)
    part = store.set_parts(store.embedding())[1]
    before, whole = vectors(store), part.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    remote(str(part)).put(tmp_path / "flipped")
    ran = cli("verify", atlas, "--deep", "--mend")
    assert ran.code == INCOMPLETE
    assert f"{part}: damaged (its checksum is not that of what was written)" in " ".join(ran.out.split())
    assert not part.exists()
    assert cli("embed", atlas, *options).code == DONE
    assert part.read_bytes() == whole
    np.testing.assert_array_equal(vectors(store), before)
    assert cli("verify", atlas, "--deep").code == DONE


@pytest.mark.slow
def test_workers_on_ray(bucket: str, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """They have the URI from the job, and the credentials from the environment of their machine."""
    write_fasta(tmp_path / "in.fa", 60, 20, 40)
    for root, executor in ((f"{bucket}/atlas", "ray"), ("local", "inline")):
        command = [*CONSOLE, "embed", "in.fa", "-o", root, "--model", str(tiny), "--shard-tokens", "100"]
        # Elsewhere: the path of a Unix socket is limited to 107 bytes.
        ran = done([*command, "--executor", executor], cwd=tmp_path, cpus=1, TMPDIR="/tmp")
        assert ran.code == DONE, ran.err
    store = Store.open(f"{bucket}/atlas")
    np.testing.assert_array_equal(vectors(store), vectors(Store.open("local")))
    receipts = newest_receipts(store.root, store.embedding())
    assert len(receipts) == len(store.set_parts(store.embedding())) > 10
    assert cli("verify", store.root, "--deep").code == DONE


def test_what_cannot_be_reached(bucket: str, server: Server, cli: Cli, tmp_path: Path) -> None:
    """In one or two lines, with what to do; and never is a file taken for missing or damaged."""
    write_fasta(tmp_path / "in.fa", 3, 20, 40)
    ran = cli("ingest", "in.fa", "-o", "s3://nosuchbucket/atlas")
    assert (ran.code, "no such bucket" in ran.err) == (FAILED, True), ran.err
    ran = cli("status", "s3://nosuchbucket/atlas")
    assert (ran.code, "no such bucket as nosuchbucket" in ran.err) == (FAILED, True), ran.err
    ran = cli("ingest", f"{bucket}/in.fa", "-o", f"{bucket}/atlas")
    assert (ran.code, f"{bucket}/in.fa: no such file" in ran.err) == (FAILED, True), ran.err
    ran = cli("ingest", "in.fa", "-o", "s3://testing:hushhush@bucket/atlas")
    assert (ran.code, "hushhush" in ran.err) == (FAILED, False), ran.err
    assert cli("ingest", "in.fa", "-o", f"{bucket}/atlas").code == DONE
    ran = cli("search", f"{bucket}/atlas", "ACGU", "-o", f"{bucket}/hits.tsv")
    assert (ran.code, "on a disk of this machine" in ran.err) == (USAGE, True), ran.err
    server.call("POST", "moto-api/reset-auth", b"0")
    try:
        ran = cli("info", f"{bucket}/atlas")
    finally:
        server.call("POST", "moto-api/reset-auth", b"inf")
    assert ran.code == FAILED
    assert "the object store refuses" in ran.err
    assert "AWS_ACCESS_KEY_ID" in ran.err


def test_a_put_that_is_cut_short_leaves_what_was(bucket: str, server: Server, tmp_path: Path) -> None:
    """In the middle of an upload of several parts the way to the server is gone."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    new.write_bytes(bytes(32 << 20))
    with _cut_after(server.port, 15 << 20) as port:
        here = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        direct = remote(f"{bucket}/x")
        direct.put(old)
        with pytest.raises(UnreachableError, match=r"does not answer .*AWS_ENDPOINT_URL") as caught:
            remote(f"{bucket}/x{here}").put(new)
    assert not isinstance(caught.value, OSError)  # by which a file would be taken for damaged
    assert direct.read_bytes() == b"old"
    assert set(direct.parent.listing()) == {"x"}


@pytest.mark.slow
def test_a_run_whose_network_goes_away(bucket: str, server: Server, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """It stops and says so; nothing that stands is made again, nor taken for damaged, nor lost."""
    write_fasta(tmp_path / "in.fa", 60, 20, 40)
    options = ["--model", tiny, "--executor", "inline", "--shard-tokens", 60]
    assert cli("embed", "in.fa", "-o", "local", *options).code == DONE
    assert cli("ingest", "in.fa", "-o", f"{bucket}/atlas").code == DONE
    with _cut_after(server.port, 100_000) as port:
        ran = cli("embed", f"{bucket}/atlas?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1", *options)
    assert ran.code == INCOMPLETE
    assert "the object store does not answer" in ran.err
    store = Store.open(f"{bucket}/atlas")
    made = store.set_parts(store.embedding())
    stood = {path: path.stat() for path in made}
    assert 0 < len(made) < 20
    ran = cli("embed", f"{bucket}/atlas", *options)
    assert ran.code == DONE, ran.err
    assert {path: path.stat() for path in made} == stood
    np.testing.assert_array_equal(vectors(store), vectors(Store.open("local")))
    assert cli("verify", f"{bucket}/atlas", "--deep").code == DONE


class _cut_after:
    """A way to a server that carries so many bytes, and then is gone."""

    def __init__(self, port: int, most: int):
        self._port, self._left = port, most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> int:
        return self._listener.getsockname()[1]

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other, one is near), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, counted: bool) -> None:
        with suppress(OSError), one, other:
            while data := one.recv(1 << 16):
                other.sendall(data)
                self._left -= len(data) if counted else 0
                if self._left <= 0:
                    self._close()
                    return
