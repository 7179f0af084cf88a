"""Digests that are remembered, and are those of the file as it is."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from raypipe import digests


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are kept."""
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SMALL_BYTES", 4)
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0.05)
    return tmp_path / "cache" / "sha256"


def settled(file: Path, content: bytes) -> bytes:
    """Write a file, and wait until its times are past; its digest."""
    file.write_bytes(content)
    time.sleep(0.1)
    return hashlib.sha256(content).digest()


def test_a_file_is_read_once(tmp_path: Path, notes: Path) -> None:
    file = tmp_path / "weights"
    digest = settled(file, b"weights of a model")
    assert digests.sha256(file) == digest
    (note,) = notes.iterdir()
    # What is remembered is believed ...
    note.write_text(note.read_text().replace(digest.hex(), "0" * 64))
    assert digests.sha256(file) == bytes(32)
    # ... of this very file in this very state: not after another of the same size and time took its place.
    times = file.stat()
    digest = settled(file, b"weights of another")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    time.sleep(0.1)
    assert digests.sha256(file) == digest


@pytest.mark.parametrize("text", ["", "[]", '{"sha256": "xyz"}', "{"])
def test_damaged_notes_are_made_anew(tmp_path: Path, notes: Path, text: str) -> None:
    file = tmp_path / "weights"
    digest = settled(file, b"weights of a model")
    assert digests.sha256(file) == digest
    (note,) = notes.iterdir()
    whole = note.read_text()
    note.write_text(text)
    assert digests.sha256(file) == digest
    assert note.read_text() == whole


def test_nothing_is_remembered_of_small_or_young_files_or_without_a_cache(tmp_path: Path, notes: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert digests.sha256(file) == hashlib.sha256(b"abc").digest()
    file.write_bytes(b"written just now")
    assert digests.sha256(file) == hashlib.sha256(b"written just now").digest()
    assert not notes.exists()
    notes.parent.write_text("no folder")
    digest = settled(file, b"weights of a model")
    assert digests.sha256(file) == digest
