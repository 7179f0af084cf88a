"""Where an atlas and its files are: on a disk, or in an object store.

A place is a `pathlib.Path` or a `RemotePath`: as much of a path as the store's code needs, over the file systems of
`pyarrow.fs` (s3://, gs://, abfs://, hdfs://), or those that fsspec knows. In an object store there are no folders, no
renames, no appending and no locks: a file is put in one step, and whole or absent.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

from index.errors import StoreError, UnreachableError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

# Of pyarrow itself; whatever else fsspec knows goes through its handler.
NATIVE = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
# It uploads by parts of 10 MiB, and S3 takes ten thousand (arrow issue 41506).
MOST_PUT = 10_000 * (10 << 20)
REQUESTS = 16  # at once
STREAM_BUFFER = 8 << 20  # every read of an object is a request
Item = TypeVar("Item")
Result = TypeVar("Result")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SECRET = re.compile(r"(^|[&_-])(secret|password|token|sas|sig|signature|credential|key)[^=]*=", re.IGNORECASE)
# How pyarrow's file systems begin what the server or the way to it has said; of a damaged file they say other things.
_OF_TRANSPORT = re.compile(r"AWS Error|google::cloud::Status|Azure|curlCode|HTTP status|HDFS", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|PERMISSION_DENIED|UNAUTHENTICATED|HTTP status 40[13]"
    r"|InvalidAccessKeyId|SignatureDoesNotMatch|TOKEN|no valid credentials",
    re.IGNORECASE,
)
_SILENT = re.compile(r"NETWORK_CONNECTION|UNAVAILABLE|curlCode|connect|resolve|time(d )?out|TIMEOUT", re.IGNORECASE)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket .* (does not exist|not found)|ContainerNotFound", re.IGNORECASE)


class Status(NamedTuple):
    """Of `os.stat_result` what a remote file has; all are of inode 0."""

    st_size: int
    st_mtime_ns: int
    st_ino: int = 0


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder in an object store; its text is the URI.

    Errors are those of `pathlib` where a file is missing, UnreachableError where the store does not answer or refuses
    (that a file cannot be had now says nothing of the file), and StoreError where it cannot do what is asked at all.

    Attributes:
        authority: the bucket, or the host.
        path: below it, without slashes at its ends; taken as it stands, without percent-encoding.
        options: of the file system, as pyarrow has them: "endpoint_override=127.0.0.1:9000&scheme=http".
    """

    scheme: str
    authority: str
    path: str
    options: str = ""

    def __str__(self) -> str:
        below = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{self.authority}{below}" + (f"?{self.options}" if self.options else "")

    def __truediv__(self, other: str) -> RemotePath:
        return replace(self, path=f"{self.path}/{other}".strip("/"))

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> RemotePath:
        return replace(self, path=self.path.rpartition("/")[0])

    @property
    def filesystem(self) -> FileSystem:
        """Of pyarrow; `key` is the path in it."""
        return _filesystem(self.scheme, self.authority, self.options)[0]

    @property
    def key(self) -> str:
        base = _filesystem(self.scheme, self.authority, self.options)[1].rstrip("/")
        return f"{base}/{self.path}" if self.path else base or "/"

    def stat(self) -> Status:
        info = self._info()
        if not _is_there(info):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return Status(*_size_and_time(info))

    def exists(self) -> bool:
        return _is_there(self._info())

    def is_file(self) -> bool:
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        from pyarrow.fs import FileType

        return self._info().type == FileType.Directory

    def listing(self) -> Mapping[str, tuple[int, int]]:
        """Size in bytes and time of change in ns of the files in this folder, by name; one request for a thousand."""
        return {info.base_name: _size_and_time(info) for info in self._children() if info.is_file}

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in this folder; nothing where there is none, which is the same in an object store."""
        return iter([self / info.base_name for info in self._children()])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Of this folder alone."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def open(self, mode: str = "rb") -> BinaryIO:
        """To be read here and there: every read is a request; see `open_stream`."""
        if mode != "rb":
            raise ValueError(f"{self}: is written by index.files.atomic, not by open({mode!r})")
        with self._asking():
            return self.filesystem.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        with self._asking(), self.filesystem.open_input_file(self.key) as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def put(self, local: Path) -> None:
        """Make this file what `local` is, in one step."""
        import pyarrow as pa

        size = local.stat().st_size
        if size > MOST_PUT:
            raise StoreError(
                f"{self}: {size / 2**30:.0f} GiB are more than pyarrow can put as one object ({MOST_PUT / 2**30:.0f}); "
                f"keep this atlas on a shared disk"
            )
        whole = pa.memory_map(str(local)).read_buffer() if size else b""
        # In one write: a stream that is dropped in the middle, by Ctrl-C say, is closed, and so half of it put.
        with self._asking(), self.filesystem.open_output_stream(self.key, compression=None) as out:
            out.write(whole)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._asking():
                self.filesystem.delete_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def asked(self, read: Callable[[int], bytes], size: int) -> bytes:
        """What `read`, of an open stream of this file, gives for `size`."""
        with self._asking():
            return read(size)

    def remove_tree(self) -> None:
        """Remove this folder with all that is in it."""
        with self._asking():
            self.filesystem.delete_dir(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object store has no folders."""

    def _info(self) -> FileInfo:
        with self._asking():
            return self.filesystem.get_file_info(self.key)

    def _children(self) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        with self._asking():
            return self.filesystem.get_file_info(FileSelector(self.key, allow_not_found=True))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What goes wrong on the way to the store or in it, in words that say what to do."""
        try:
            yield
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise _unreachable(str(self), error) from error
            raise
        except OSError as error:
            raise _unreachable(str(self), error) from error
        except (ValueError, NotImplementedError) as error:
            # Of pyarrow or fsspec: a name that cannot be, a file system that is only read. Asking again is no use.
            raise StoreError(f"{self}: cannot be done there ({_short(' '.join(str(error).split()))})") from error


Place: TypeAlias = Path | RemotePath


def is_uri(text: object) -> bool:
    """Whether a text names a place by its URI."""
    return _URI.match(str(text)) is not None


def place(where: str | os.PathLike[str] | RemotePath) -> Place:
    """What a text names: an absolute path, or a remote one.

    Raises:
        StoreError: the URI holds credentials, or cannot be one.
    """
    if isinstance(where, RemotePath):
        return where
    text = os.fspath(where)
    found = _URI.match(text)
    if found is None:
        return Path(text).absolute()
    scheme, rest = found[1].lower(), found[2]
    rest, _, options = rest.partition("?")
    authority, _, path = rest.partition("/")
    if scheme == "file":
        return Path("/" + path)
    user, _, host = authority.rpartition("@")
    if ":" in user or (user and scheme in ("s3", "gs", "gcs")) or _SECRET.search(options):
        raise StoreError(
            f"{scheme}://{host}/{path}: credentials do not belong into a URI, which is stored and shown; leave them "
            f"out, and give them by the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            f"AWS_PROFILE)"
        )
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if ".." in steps or not (authority or steps):
        raise StoreError(f"{text}: no place in an object store; write it as {scheme}://BUCKET/FOLDER")
    if scheme not in NATIVE and (options or set(path) & set("*[")):
        # fsspec would take it for a pattern, also where it removes files.
        raise StoreError(f"{text}: '*', '?' and '[' cannot be in a name there; choose another one")
    return RemotePath(scheme, authority, "/".join(steps), options)


def at_once(work: Callable[[Item], Result], items: Iterable[Item], root: Place) -> list[Result]:
    """`work` of each of `items`, in their order; for a store that answers requests, many at a time."""
    if not isinstance(root, RemotePath):
        return [work(item) for item in items]
    with ThreadPoolExecutor(REQUESTS) as pool:  # which mostly wait for answers
        return list(pool.map(work, items))


def below(path: Place, root: Place) -> str:
    """What leads from `root` to `path`."""
    if isinstance(path, RemotePath) and isinstance(root, RemotePath):
        return PurePosixPath(path.path).relative_to(root.path).as_posix()
    return Path(str(path)).relative_to(str(root)).as_posix()


def exists(text: str) -> bool:
    """Whether a file or folder stands where `text` says; a sequence may be longer than any file name."""
    return place(text).exists() if is_uri(text) else os.path.exists(text)


def open_stream(where: Place) -> BinaryIO:
    """A file to be read from its beginning to its end."""
    if isinstance(where, Path):
        return where.open("rb")
    with where._asking():
        # As it stands: by default pyarrow unpacks what is called .gz.
        return where.filesystem.open_input_stream(where.key, compression=None, buffer_size=STREAM_BUFFER)


def absence(where: Place) -> str:
    """What is missing where nothing stands: "no such folder", or "no such bucket"."""
    if isinstance(where, RemotePath) and where.path and not replace(where, path="").exists():
        return f"no such bucket as {where.authority}"
    return "no such folder"


@contextmanager
def transport_errors(where: object) -> Iterator[None]:
    """Tell what the way to an object store has said from what is wrong with a file that was read through pyarrow.

    Raises:
        UnreachableError: in place of the former.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise_unreachable(where, error)
        raise


def raise_unreachable(where: object, error: Exception) -> None:
    """Raise UnreachableError where an error is of an object store or the way to it."""
    if is_of_transport(error):
        raise _unreachable(str(where), error) from error


def is_of_transport(error: object) -> bool:
    """Whether an error is of an object store or the way to it, not of a file in it."""
    return _OF_TRANSPORT.search(str(error)) is not None


def _size_and_time(info: FileInfo) -> tuple[int, int]:
    """In whole seconds: what S3 tells of one file it does not tell more finely, what it lists it may."""
    return info.size or 0, (info.mtime_ns or 0) // 10**9 * 10**9


def _is_there(info: FileInfo) -> bool:
    from pyarrow.fs import FileType

    return info.type != FileType.NotFound


def _unreachable(where: str, error: BaseException) -> UnreachableError:
    said = " ".join(str(error).split())
    if _NO_BUCKET.search(said):
        return UnreachableError(f"{where}: no such bucket; make it first, or mend its name")
    if _REFUSED.search(said):
        return UnreachableError(
            f"{where}: the object store refuses ({_short(said)}); give credentials that may read, list and write "
            f"there, by the environment of every machine (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            f"AWS_PROFILE)"
        )
    if _SILENT.search(said):
        return UnreachableError(
            f"{where}: the object store does not answer ({_short(said)}); look at the network and at its address (for "
            f"one that is not Amazon's: AWS_ENDPOINT_URL, or ?endpoint_override=HOST:PORT&scheme=http in the URI), and "
            f"run the same command again"
        )
    return UnreachableError(f"{where}: {_short(said) or type(error).__name__}")


def _short(said: str) -> str:
    """What counts of a message of pyarrow's, which tells what it was about first."""
    found = re.search(r"(AWS Error|google::cloud::Status|curlCode).*", said)
    return (found[0] if found else said)[:160]


@lru_cache(maxsize=64)
def _filesystem(scheme: str, authority: str, options: str) -> tuple[Any, str]:
    """The file system of a URI, and the path of its bucket or host in it."""
    from pyarrow import fs

    uri = f"{scheme}://{authority}" + ("" if authority else "/") + (f"?{options}" if options else "")
    try:
        if scheme == "s3" and "allow_delayed_open" not in options:
            # A small file is then put by one request, else by three.
            return fs.FileSystem.from_uri(uri + ("&" if options else "?") + "allow_delayed_open=true")
        if scheme in NATIVE:
            return fs.FileSystem.from_uri(uri)
        import fsspec

        found, base = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise StoreError(f"{uri}: needs a package that is not installed ({error})") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        # Of pyarrow an option that it does not know, or a file system that it was built without; of fsspec a scheme
        # that it does not know (ValueError), or parts of the URI that its file system cannot do without (TypeError).
        raise StoreError(f"{uri}: no place that can be used ({' '.join(str(error).split())[:200]})") from error
    except OSError as error:
        raise _unreachable(uri, error) from error
    return fs.PyFileSystem(fs.FSSpecHandler(found)), str(base)
