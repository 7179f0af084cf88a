"""A remote path is as much of a path as the store needs: compared with pathlib over the same files."""

from __future__ import annotations

import pickle
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import files
from index.errors import StoreError, UnreachableError
from index.places import RemotePath, below, exists, is_of_transport, open_stream, place

NAMES = st.text("ab.-] é%", min_size=1, max_size=6).filter(lambda name: name.strip(". "))
TREES = st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=20), min_size=1, max_size=6)


@pytest.fixture
def remote() -> RemotePath:
    """An empty folder in the memory of this process, by fsspec."""
    found = place(f"memory://{uuid.uuid4().hex}/atlas")
    assert isinstance(found, RemotePath)
    return found


@settings(max_examples=40, deadline=None)
@given(tree=TREES, pattern=st.sampled_from(["*", "a*", "*.?", "[ab]*", "*-*", "nothing"]))
def test_as_pathlib_has_it(tree: dict[tuple[str, str], bytes], pattern: str) -> None:
    """Names, kinds, contents and listings of the same tree."""
    there = place(f"memory://{uuid.uuid4().hex}/atlas")
    assert isinstance(there, RemotePath)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "atlas"
        for (one, two), content in tree.items():
            (here / one).mkdir(parents=True, exist_ok=True)
            (here / one / two).write_bytes(content)
            (there / one / two).put(here / one / two)
        for a, b in [(here, there), *((here / one, there / one) for one, _ in tree)]:
            assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
            assert sorted(path.name for path in a.glob(pattern)) == [path.name for path in sorted(b.glob(pattern))]
            assert (a.exists(), a.is_dir(), a.is_file()) == (b.exists(), b.is_dir(), b.is_file())
            wanted = {path.name: path.stat().st_size for path in a.iterdir() if path.is_file()}
            assert {name: size for name, (size, _) in b.listing().items()} == wanted
        for one, two in tree:
            a, b = here / one / two, there / one / two
            assert (a.name, a.stem, a.suffix, a.parent.name) == (b.name, b.stem, b.suffix, b.parent.name)
            assert a.read_bytes() == b.read_bytes() == open_stream(b).read()
            assert a.stat().st_size == b.stat().st_size
            assert (b.exists(), b.is_dir(), b.is_file()) == (True, False, True)
            assert below(a, here) == below(b, there) == f"{one}/{two}"
            assert place(str(b)) == b == pickle.loads(pickle.dumps(b))
            b.unlink()
            assert not b.exists()


def test_what_is_not_there(remote: RemotePath) -> None:
    """As in pathlib: an error where one file is meant, nothing where there may be none."""
    with pytest.raises(FileNotFoundError):
        (remote / "x").stat()
    with pytest.raises(FileNotFoundError):
        (remote / "x").read_text()
    with pytest.raises(FileNotFoundError):
        (remote / "x").unlink()
    (remote / "x").unlink(missing_ok=True)
    assert (list(remote.glob("*")), dict(remote.listing()), remote.exists()) == ([], {}, False)


def test_local_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a/b") == tmp_path / "a" / "b"
    assert place("file:///a/b") == Path("/a/b")
    assert not exists("ACGU" * 2000)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA1234:hushhush@bucket/atlas",
        "s3://hushhush@bucket/atlas",
        "s3://bucket/atlas?secret_key=hushhush",
        "https://host/x.fa?X-Amz-Signature=hushhush",
    ],
)
def test_credentials_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(StoreError, match="credentials do not belong") as caught:
        place(text)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://", "s3://bucket/../other", "memory://bucket/a*"])
def test_no_places(text: str) -> None:
    with pytest.raises(StoreError, match=r"no place in an object store|cannot be in a name"):
        place(text)


def test_schemes_that_nobody_knows() -> None:
    with pytest.raises(StoreError, match="nosuch://bucket: no place that can be used"):
        (place("nosuch://bucket") / "x").exists()


@pytest.mark.parametrize(
    ("uri", "says"), [("s3://bucket?nosuch=1", "nosuch"), ("ftp://", "no place"), ("github://bucket", "no place")]
)
def test_places_that_cannot_be_used(uri: str, says: str) -> None:
    """An option that nobody knows, a URI that lacks what its file system needs."""
    with pytest.raises(StoreError, match=says) as caught:
        (place(uri) / "x").exists()
    assert not isinstance(caught.value, UnreachableError), "asking again is no use"


def test_a_place_that_is_only_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    there = place("http://127.0.0.1:9/atlas")
    assert isinstance(there, RemotePath)
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9/atlas/x: cannot be done there") as caught:
        (there / "x").put(tmp_path / "x")
    assert not isinstance(caught.value, UnreachableError), "asking again is no use"


def test_what_says_nothing_of_a_file() -> None:
    """Errors of the way to a store are told from those of a damaged file."""
    assert is_of_transport("When reading: AWS Error SLOW_DOWN during GetObject operation")
    assert not is_of_transport("Couldn't deserialize thrift: TProtocolException: Invalid data")
    assert not is_of_transport("Corrupt snappy compressed data.")


def test_a_block_that_fails_puts_nothing(remote: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), files.atomic(remote / "x", remote) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert not (remote / "x").exists()
    files.write_json(remote / "x", [1], remote)
    assert (remote / "x").read_text() == "[\n  1\n]\n"
    assert not list(files.scratch(remote).iterdir())
