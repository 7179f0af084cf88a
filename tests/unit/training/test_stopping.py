"""An end that is wanted: by the first signal, by the clock; a second signal waits for nothing."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from raypipe.training.stopping import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_kept_in_mind_and_the_second_raises(number: int) -> None:
    said: list[str] = []
    stop = Stop(None, said.append)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stop.listening():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert said == ["stopping after this step, to go on from there; once more stops at once"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert stop.why == "stopped"


def test_the_time_is_over() -> None:
    assert not Stop(1.0, print)()
    stop = Stop(1e-9, print)
    assert stop()
    assert stop.why == "stopped when 1e-09 min were over"
    assert not Stop(None, print)()


def test_a_line_that_is_being_written_does_no_harm() -> None:
    def busy(_: str) -> None:
        raise RuntimeError("reentrant call")

    stop = Stop(None, busy)
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with Stop(None, print).listening():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
