"""Folders that stand whole or not at all, also where several processes make the same one at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from index import wholes


def published(root: Path, content: bytes, barrier: Barrier | None = None) -> tuple[dict, bytes]:
    """What `publishing` says of root/made, and what it was given to publish."""
    about = {"by": content.decode()}
    with wholes.publishing(root, root / "made", about) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_bytes(content)
        if barrier is not None:
            barrier.wait()
    return about, content


def assert_whole(root: Path, about: dict) -> None:
    """One of those that were published, with all its files, and nothing else is left."""
    assert wholes.standing(root / "made") == about
    assert {(root / "made" / name).read_bytes() for name in ("a", "b")} == {about["by"].encode()}
    assert [path.name for path in root.iterdir() if path.name != "made"] == [".tmp"]
    assert not list((root / ".tmp").iterdir())


def test_published(tmp_path):
    about, _ = published(tmp_path, b"one")
    assert set(about["checksums"]) == {"a", "b"}
    assert_whole(tmp_path, about)


def test_nothing_stands_of_what_failed(tmp_path):
    with pytest.raises(FileNotFoundError), wholes.publishing(tmp_path, tmp_path / "made", {}) as temporary:
        (temporary / "missing" / "a").write_bytes(b"half")
    assert wholes.standing(tmp_path / "made") is None
    assert not (tmp_path / "made").exists()
    assert not list((tmp_path / ".tmp").iterdir())


def test_the_second_takes_what_the_first_has_made(tmp_path):
    about = {"by": "late"}
    with wholes.publishing(tmp_path, tmp_path / "made", about) as temporary:
        (temporary / "a").write_bytes(b"late")
        first, _ = published(tmp_path, b"first")
        inode = (tmp_path / "made").stat().st_ino
    assert about == first
    assert (tmp_path / "made").stat().st_ino == inode, "it was not touched"
    assert_whole(tmp_path, first)


@pytest.mark.parametrize(("number", "damaged"), [(8, False), (2, True)])
def test_many_at_once_agree(tmp_path, number, damaged):
    """Whose folder stands is chance; that it is whole, and the one that all say it is, is not."""
    for turn in range(10):
        root = tmp_path / str(turn)
        root.mkdir()
        if damaged:
            published(root, b"old")
            (root / "made" / "b").write_bytes(b"bad")
        barrier = Barrier(number)
        with ThreadPoolExecutor(number) as pool:
            asked = [pool.submit(published, root, b"%d" % name, barrier) for name in range(number)]
            said = [future.result()[0] for future in asked]
        standing = wholes.standing(root / "made")
        assert standing is not None
        assert standing["by"] != "old"
        assert said == [standing] * number
        assert_whole(root, standing)


@pytest.mark.parametrize("damage", ["gone", "about", "short", "other"])
def test_a_damaged_folder_is_replaced(tmp_path, damage):
    published(tmp_path, b"old")
    folder = tmp_path / "made"
    if damage in ("gone", "about"):
        os.unlink(folder / ("b" if damage == "gone" else wholes.ABOUT))
    else:
        (folder / "b").write_bytes(b"ol" if damage == "short" else b"odd")
    assert wholes.standing(folder) is None
    about, _ = published(tmp_path, b"new")
    assert about["by"] == "new"
    assert_whole(tmp_path, about)


def test_names_tell_what_was_made(tmp_path):
    assert wholes.content_name(1, {"a": 2, "b": 3}) == wholes.content_name(1, {"b": 3, "a": 2})
    assert wholes.content_name(1, {"a": 2}) != wholes.content_name(1, {"a": 3})
