"""The command line: `raypipe VERB ...`.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 failed, 2 usage,
3 incomplete (run the same command again to go on).
"""

from __future__ import annotations

# Little, as Ctrl-C while it is imported is Python's to answer, with a traceback.
import os
import signal
import sys
from collections.abc import Sequence

DONE, FAILED, USAGE, INCOMPLETE = range(4)
# Links to pydantic's manual are for programmers; read when pydantic is imported.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
STOPPED = "stopped; what is finished stays, run the same command again to go on"


def main() -> None:
    """Entry point of the console script and of `python -m raypipe`."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before `run` is ready for it, or after
        code = _say(STOPPED, INCOMPLETE)
    # What was to be done is done, or not: the end of the process changes nothing, and would be a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where Ctrl-C broke off code that some module made from text (namedtuple, dataclass), Python has noted that nobody
    # caught it, though we did, and would kill itself by the signal. The next code from text makes it forget.
    exec("")
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code.

    Messages of our own errors are one or two lines, after a traceback where --debug or RAYPIPE_DEBUG=1 asks for it.
    """
    before = os.environ.get("RAYPIPE_DEBUG")
    try:
        from raypipe.interrupts import check, interruptible

        with interruptible():
            code = _run(arguments)
            if code == DONE:
                check()
            return code
    except KeyboardInterrupt:
        return _say(STOPPED, INCOMPLETE)
    finally:
        # Not for the next command of this process.
        os.environ.pop("RAYPIPE_DEBUG", None)
        if before is not None:
            os.environ["RAYPIPE_DEBUG"] = before


def _run(arguments: Sequence[str]) -> int:
    from raypipe.interrupts import check

    try:
        from raypipe.bootstrap import pin

        pin()
        from raypipe.cli.app import launch
    except ImportError as error:
        check()  # a module that is stopped while it loads may say so in this way
        return _say(str(error), FAILED)
    from index.errors import StoreError
    from model.errors import ModelError
    from raypipe.answer_files import guarded_stdout
    from raypipe.errors import EXTRAS, INSTALL, IncompleteError, RaypipeError, UsageError, debugging

    try:
        with guarded_stdout():
            launch(arguments)
    except UsageError as error:
        return _say(str(error), USAGE)
    except (RaypipeError, StoreError, ModelError) as error:
        if debugging():
            import traceback

            traceback.print_exc()
        return _say(str(error), INCOMPLETE if isinstance(error, IncompleteError) else FAILED)
    except ModuleNotFoundError as error:
        check()
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _say(f"{package} is not installed, and this needs it; run: {INSTALL}", FAILED)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has seen enough; Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILED
    except Exception:
        check()  # what becomes of it where C code takes it for an error of its own
        raise
    return DONE


def _say(message: str, code: int) -> int:
    print(f"raypipe: {message}", file=sys.stderr)
    return code
