"""Compression is found by content, and a damaged file is refused with its name, never read in part."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.errors import InputError
from raypipe.unpacking import open_unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "".join(
    f">r{number}\n{''.join(random.Random(number).choices('ACGU', k=60))}\n" for number in range(3000)
).encode()


def _zstd(data: bytes) -> bytes:
    """As the zstd tool writes it: with a checksum of the content, which Python leaves out by default."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": _zstd,
}
formats = pytest.mark.parametrize("kind", PACK)


def _read(path: Path) -> bytes:
    with open_unpacked(str(path)) as file:
        return file.read()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "in.fasta"
        path.write_bytes(data)
        return path

    return write


@formats
def test_several_members_are_read_whole(kind: str, written: Callable[[bytes], Path]) -> None:
    half = len(TEXT) // 2
    assert _read(written(PACK[kind](TEXT[:half]) + PACK[kind](TEXT[half:]))) == TEXT


def test_xz_may_be_padded(written: Callable[[bytes], Path]) -> None:
    assert _read(written(lzma.compress(b"AC") + bytes(8) + lzma.compress(b"GU") + bytes(4))) == b"ACGU"


def test_plain_text_needs_no_name(written: Callable[[bytes], Path]) -> None:
    assert _read(written(TEXT)) == TEXT


@formats
@pytest.mark.parametrize("damage", ["half", "start", "garbage", "tail", "second"])
def test_a_damaged_file_is_an_error_that_names_it(kind: str, damage: str, written: Callable[[bytes], Path]) -> None:
    packed = PACK[kind](TEXT)
    broken = {
        "half": packed[: len(packed) // 2],
        "start": packed[:6],
        "garbage": packed[:40] + b"\x55" * 500 + packed[540:],
        "tail": packed + b"rubbish of a failed download",
        "second": packed + packed[: len(packed) // 2],
    }[damage]
    path = written(broken)
    with pytest.raises(InputError, match="damaged or cut short") as caught:
        _read(path)
    assert str(path) in str(caught.value)
    assert "copy or download it again" in str(caught.value)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_a_damaged_later_member_is_no_rubbish_to_be_skipped(kind: str, written: Callable[[bytes], Path]) -> None:
    """Python's own readers stop there in silence, and half of the sequences would be gone."""
    second = bytearray(PACK[kind](TEXT))
    second[1] ^= 0xFF
    with pytest.raises(InputError, match="damaged or cut short"):
        _read(written(PACK[kind](TEXT) + bytes(second)))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.fa: no such file"):
        _read(tmp_path / "gone.fa")
    with pytest.raises(InputError, match="is a folder; name the files in it"):
        _read(tmp_path)


def test_a_stream_of_small_pieces_is_read_whole_and_left_open() -> None:
    packed = gzip.compress(TEXT)
    source, sink = os.pipe()

    def feed() -> None:
        with os.fdopen(sink, "wb", buffering=0) as out:
            for place in range(0, len(packed), 1000):
                # One byte first: no more than that must not hide the compression.
                out.write(packed[place : place + 1])
                out.write(packed[place + 1 : place + 1000])

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(source, "rb") as stream:
        with open_unpacked("-", stream) as file:
            assert file.read() == TEXT
        assert not stream.closed
    thread.join()
