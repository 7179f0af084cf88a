"""Where answers go: a file is whole or absent, and what cannot be is said before the work."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from raypipe.answer_files import check_output, guarded_stdout, opened, replacing, same_file
from raypipe.errors import RaypipeError, UsageError


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "out.tsv"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError), opened(target) as stream:  # noqa: PT012
        stream.write("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out.tsv"]
    assert target.read_text() == "before"
    with opened(target) as stream:
        stream.write("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.tsv", "whole")]


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    """/dev/stdout is a link, and often one to a plain file."""
    (tmp_path / "real").write_text("before")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with opened(link) as stream:
        stream.write("after")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "after"
    with pytest.raises(RaypipeError, match=r"/dev/full: cannot be written"), opened(Path("/dev/full")) as stream:
        stream.write("anything")
    assert not Path("/dev/full").is_file()


@pytest.mark.parametrize("text", ["short", "x" * 100_000])
def test_standard_output_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for end in (lambda: None, lambda: sys.exit(0)):
            with (  # noqa: PT012
                pytest.raises(RaypipeError, match=r"^standard output: cannot be written \(No space left on device\)$"),
                guarded_stdout(),
            ):
                print(text)
                end()
            assert sys.stdout is full


def test_errors_of_other_files_are_not_those_of_standard_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("")
    with (tmp_path / "out").open("a") as out:
        monkeypatch.setattr(sys, "stdout", out)
        print("first")
        with pytest.raises(OSError, match="No space left") as caught, guarded_stdout():  # noqa: PT012
            print("second")
            raise OSError(errno.ENOSPC, "No space left on device")
        print("third")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "out").read_text() == "first\nsecond\nthird\n"


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "in.fa"
    source.write_text(">a\nACGU\n")
    with pytest.raises(UsageError, match="is an input"):
        check_output(tmp_path / ".." / tmp_path.name / "in.fa", ["-", str(source)])
    with pytest.raises(RaypipeError, match="no such folder"):
        check_output(tmp_path / "nowhere" / "out", [])
    with pytest.raises(RaypipeError, match="is a folder"):
        check_output(tmp_path, [])
    check_output(tmp_path / "out", [str(source), "ACGU"])
    check_output(None, [str(source)])


@pytest.mark.parametrize("output", ["/proc/out", "/proc/out.png"])
def test_a_folder_that_takes_no_file(output: str) -> None:
    with pytest.raises(RaypipeError, match=rf"{output}: cannot be written"):
        check_output(Path(output), [])


def test_bytes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_output(tmp_path / "link", [])
    with replacing(tmp_path / "link") as file:
        file.write(b"\x89PNG")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_two_names_of_one_file(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "folder" / ".." / "one"
    (tmp_path / "folder").mkdir()
    assert same_file(one, other)
    one.write_text("")
    (tmp_path / "hard").hardlink_to(one)
    assert same_file(one, other)
    assert same_file(one, tmp_path / "hard")
    assert not same_file(one, tmp_path / "two")
