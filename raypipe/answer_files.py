"""Where answers go that no store keeps: standard output, or a file that is whole or absent."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from raypipe.errors import RaypipeError, UsageError


def check_output(output: Path | None, inputs: Sequence[str], option: str = "-o") -> None:
    """Refuse an output that could not be written, before any time is spent.

    Args:
        output: None is standard output.
        inputs: files, and texts that are none.
        option: what names the output, for the message.

    Raises:
        UsageError: the file is one of the inputs.
        RaypipeError: it cannot be there, or its folder takes no file.
    """
    if output is None:
        return
    if any(os.path.exists(text) and same_file(Path(text), output) for text in inputs):
        raise UsageError(f"{output}: is an input; name another file with {option}")
    if output.is_dir() or not output.parent.is_dir():
        raise RaypipeError(f"{output}: cannot be written ({'is a folder' if output.is_dir() else 'no such folder'})")
    try:
        if _is_replaced(output):
            with tempfile.TemporaryFile(dir=output.parent):
                pass
        elif output.exists() and not os.access(output, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise _unwritable(output, error) from error


def same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file, which may not be there yet."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other)
    return one.resolve() == other.resolve()


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """Where text goes: standard output, or a file as `replacing` writes it.

    Raises:
        RaypipeError: it cannot be written.
    """
    if output is None:
        try:
            yield sys.stdout
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable("standard output", error) from error
        return
    with replacing(output) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as stream:
        yield stream


@contextmanager
def replacing(output: Path) -> Iterator[BinaryIO]:
    """A file, written under another name and renamed when whole; after an error it is what it was before.

    A pipe, a device or a link (/dev/stdout is one) is written through, not replaced by a file.

    Raises:
        RaypipeError: it cannot be written.
    """
    replaced = _is_replaced(output)
    target = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}") if replaced else output
    try:
        try:
            with target.open("wb") as file:
                yield file
            if replaced:
                os.replace(target, output)
        finally:
            if replaced:
                target.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(output, error) from error


@contextmanager
def guarded_stdout() -> Iterator[None]:
    """Whatever prints in here finds a standard output whose errors cannot be taken for those of another file.

    At the end all of it is written; after another error as far as that goes.

    Raises:
        RaypipeError: it cannot be written.
        BrokenPipeError: nobody reads it.
    """
    before: Any = sys.stdout
    stream = _guarded(before)
    if stream is None:
        yield
        return
    before.flush()
    sys.stdout = stream
    try:
        yield
    except SystemExit:  # which is how commands end
        stream.flush()
        raise
    except BaseException:
        with suppress(OSError, RaypipeError):
            stream.flush()
        raise
    else:
        stream.flush()
    finally:
        sys.stdout = before


def _guarded(stream: Any) -> io.TextIOWrapper | None:
    """Another way to the file of `stream`; None where it has none, as what an application puts in its place."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        raw = _Stdout(stream.fileno(), "wb", closefd=False)
    except io.UnsupportedOperation:
        return None
    lines, through = bool(stream.line_buffering), bool(stream.write_through)
    under: Any = raw if through else io.BufferedWriter(raw)
    return io.TextIOWrapper(under, stream.encoding, stream.errors, None, lines, through)


class _Stdout(io.FileIO):
    """The file behind standard output."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable("standard output", error) from error


def _is_replaced(output: Path) -> bool:
    return not output.is_symlink() and (output.is_file() or not output.exists())


def _unwritable(output: Path | str, error: OSError) -> RaypipeError:
    return RaypipeError(f"{output}: cannot be written ({error.strerror or error})")
