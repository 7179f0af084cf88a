"""What every test shares: the folder of real data, a small corpus, and a quiet, offline Ray."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before ray, huggingface_hub or a child process reads them. The token is fixed so that a Ray started by a test and a
# client in another process agree; authentication stays on.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAYPIPE_CACHE", str(Path(tempfile.gettempdir()) / f"raypipe-tests-{os.getuid()}"))
# Small work on a shared machine: threads that wait for each other would take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is stored is compared with float32; the default depends on the processor (integration/test_compute_type.py).
os.environ.setdefault("RAYPIPE_CPU_DTYPE", "float32")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)

# A shell makes what it starts in the background, and all that this starts, deaf to Ctrl-C, of which there are tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs and real data beside the checkout, which not every checkout has."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ (golden outputs and real data) beside the checkout")
    return folder


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was never trained, by the name of fresh."""
    from tests.untrained import make_untrained

    return make_untrained(tmp_path_factory.mktemp("models") / "fresh")


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Bind the test to one processor: the bits of results depend on the number of threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:1])
    yield
    os.sched_setaffinity(0, before)
