"""Open an input for reading: a file or a stream, its compression found by content and undone."""

from __future__ import annotations

import bz2
import io
import lzma
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from xopen import xopen

from index import places
from index.errors import UnreachableError
from raypipe.errors import InputError

# By content, not by name: files are renamed more often than they are recompressed.
MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
BUFFER = 1 << 17


@contextmanager
def open_unpacked(path: str, stream: BinaryIO | None = None) -> Iterator[io.BufferedReader]:
    """Decompressed bytes of `stream` (left open), else of the file `path`, which may be a URI.

    Raises:
        InputError: it cannot be opened, or is damaged; the latter also while it is read.
    """
    try:
        if stream is None and places.is_uri(path):
            stream = places.open_stream(places.place(path))
        raw: Any = open(path, "rb", BUFFER) if stream is None else io.BufferedReader(_Whole(stream), BUFFER)  # noqa: SIM115
    except OSError as error:
        raise unreadable(path, error) from error
    with raw:
        yield io.BufferedReader(_Guarded(path, raw), BUFFER)


def shown(path: str) -> str:
    """`path` as messages call it."""
    return "standard input" if path == "-" else path


def unreadable(path: str, error: OSError) -> InputError:
    """Why `path` cannot be opened, in words that say what to do."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{path}: is a folder; name the files in it")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: may not be read; check its permissions")
    return InputError(f"{path}: cannot be read ({error.strerror or error})")


class _Readable(io.RawIOBase):
    """A raw stream over `_take`."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @abstractmethod
    def _take(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""


class _Whole(_Readable):
    """A stream that gives as much as is asked for, however small the pieces that a pipe delivers; leaves it open."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def _take(self, size: int) -> bytes:
        return self._stream.read(size)


def _unpacked(raw: Any) -> Any:
    start = raw.peek(8)
    packed = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
    if packed is None:
        return raw
    if packed in ("bz2", "xz"):
        return _Members(raw, bz2.BZ2Decompressor if packed == "bz2" else lzma.LZMADecompressor)
    # threads=0: no helper process or thread that would turn a damaged file into a broken pipe.
    return xopen(raw, "rb", format=packed, threads=0)


class _Guarded(_Readable):
    """What comes out of `raw`; each decompressor has errors of its own, and all of them mean a damaged file."""

    def __init__(self, path: str, raw: Any):
        self._path = path
        self._raw = raw
        self._unpacked: Any = None

    def _take(self, size: int) -> bytes:
        try:
            with places.transport_errors(self._path):
                self._unpacked = self._unpacked or _unpacked(self._raw)
                return self._unpacked.read(size)
        except UnreachableError:
            raise
        except Exception as error:
            raise InputError(
                f"{shown(self._path)}: damaged or cut short ({error}); copy or download it again"
            ) from error


class _Members(_Readable):
    """The content of a bz2 or xz file of one or more members.

    Python's own readers take a damaged later member for rubbish at the end, and pass over it in silence.
    """

    def __init__(self, file: BinaryIO, start: Callable[[], Any]):
        self._file = file
        self._start = start
        self._unpack = start()
        self._packed = b""
        self._between = False

    def _take(self, size: int) -> bytes:
        while True:
            if self._unpack.eof:
                self._packed, self._unpack, self._between = self._unpack.unused_data, self._start(), True
            packed = b""
            if self._unpack.needs_input:
                packed, self._packed = self._packed or self._file.read(BUFFER), b""
                if not packed and not self._between:
                    raise EOFError("it ends before its end mark")
                if not packed:
                    return b""
            if self._between:
                packed = packed.lstrip(b"\0")  # xz files may be padded
                if not packed:
                    continue
                self._between = False
            if data := self._unpack.decompress(packed, size):
                return data
