"""Being stopped from outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_came = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a run by an exception, so that locks, files and Ray are put away.

    The exception is lost where it comes up in Python code whose errors some C code drops, as when pyarrow tries to
    import pandas. So `check` raises it again, in long loops and at the end of a command.
    """
    global _came
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM), signal.SIGINT: signal.getsignal(signal.SIGINT)}
    if before[signal.SIGINT] not in (signal.default_int_handler, _stop):
        del before[signal.SIGINT]  # of an application; or a shell started us in its background, deaf to Ctrl-C
    outermost = _stop not in before.values()
    try:
        for number in before:
            signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if outermost:  # what comes next in this process is not stopped by it
            _came = False


def check() -> None:
    """Stop here, where Ctrl-C or SIGTERM came and the exception was lost.

    Raises:
        KeyboardInterrupt: it was.
    """
    if _came:
        raise KeyboardInterrupt


def obeyed() -> None:
    """The stop that was asked for was meant for this, and what called it goes on or is done."""
    global _came
    _came = False


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is left; no other handler of theirs is set meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before: dict[int, Any] = {}
    set_handler = signal.signal

    def pass_over(number: int, handler: Any) -> Any:
        return before[number] if number in before else set_handler(number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = set_handler(number, lambda came, _: waiting.append(came))
        signal.signal = pass_over  # type: ignore[assignment]
        yield
    finally:
        signal.signal = set_handler
        for number, handler in before.items():
            set_handler(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _stop(*_: Any) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
