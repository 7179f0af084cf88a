"""The journal of attempts finds what kills workers and accuses nobody else. A death here is a journal left as it is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raypipe.attempts import DEATHS_IN_A_ROW, EARLY_DEATHS, Journal, journal_path, sweep
from raypipe.plan import Task
from tests.made import vector_set

TASK = [0, 100, ["f"]]
Span = tuple[int, int]


def attempt(
    path: Path, killers: set[int], *, size: int = 100, run: str = "run", dies_before: Span | None = None
) -> Journal | None:
    """One worker: dies at the first range that holds a killer (or at `dies_before`), else finishes; None if it died."""
    journal = Journal(path, run, TASK, size)
    if journal.hopeless:
        return journal
    for lo, hi in journal.ranges():
        journal.file.write(f'["{journal._name}","begin",{lo},{hi}]\n'.encode())
        if killers & set(range(lo, hi)) or dies_before == (lo, hi):
            journal.forward_pass()
            journal.file.close()
            return None
        journal.file.write(f'["{journal._name}","end",{lo},{hi}]\n'.encode())
    return journal


def deaths_until_done(path: Path, killers: set[int], size: int = 100) -> tuple[int, Journal]:
    for deaths in range(200):
        journal = attempt(path, killers, size=size)
        if journal is not None:
            return deaths, journal
    raise AssertionError("never done")


@pytest.mark.parametrize("killers", [{0}, {99}, {37}, {4, 5}, {10, 60}, {0, 50, 99}, {20, 21, 22, 23}])
def test_finds_every_killer_and_no_other(tmp_path: Path, killers: set[int]) -> None:
    deaths, journal = deaths_until_done(tmp_path / ".attempts" / "j", killers)
    assert journal.given_up == killers
    assert not journal.hopeless
    left = [place for lo, hi in journal.ranges() for place in range(lo, hi)]
    assert sorted(left) == sorted(set(range(100)) - killers)
    assert deaths <= 2 + 8 * len(killers)
    assert f"{deaths} workers died over it; {len(killers)} sequence" in journal.summary()
    journal.close(finished=True)
    assert not list((tmp_path / ".attempts").iterdir())


def test_one_sequence_alone_needs_three_deaths(tmp_path: Path) -> None:
    deaths, journal = deaths_until_done(tmp_path / ".attempts" / "j", {0}, size=1)
    assert (deaths, journal.given_up, journal.ranges()) == (3, {0}, [])


def test_kills_from_outside_change_nothing(tmp_path: Path) -> None:
    """One death in a run, or any number of killed runs, or deaths in different passes."""
    path = tmp_path / ".attempts" / "j"
    for _ in range(10):
        attempt(path, {7}, run=f"killed run {_}")
    assert Journal(path, "next", TASK, 100).ranges() == [(0, 100)]
    for passes in (1, 2, 3):
        journal = Journal(path, "run", TASK, 100)
        journal.file.write(f'["{journal._name}","begin",0,100]\n'.encode())
        for _ in range(passes):
            journal.forward_pass()
    journal = Journal(path, "run", TASK, 100)
    assert (journal.ranges(), journal.given_up, journal.deaths) == ([(0, 100)], set(), 3)
    assert not journal.hopeless


def test_errors_and_deaths_before_a_range_accuse_nobody(tmp_path: Path) -> None:
    path = tmp_path / ".attempts" / "j"
    for _ in range(5):
        journal = Journal(path, "run", TASK, 100)
        with pytest.raises(ValueError, match="of the data"), journal.computing((0, 100)):
            raise ValueError("of the data")
        journal.close(finished=False)
    assert Journal(path, "run", TASK, 100).deaths == 0  # and this one is left as it is: a death
    for early in range(1, EARLY_DEATHS + 1):
        journal = Journal(path, "run", TASK, 100)
        assert journal.hopeless == (early == EARLY_DEATHS)
        assert journal.ranges() == [(0, 100)]
    assert not Journal(path, "another run", TASK, 100).hopeless


def test_a_machine_on_which_everything_dies_is_soon_left_alone(tmp_path: Path) -> None:
    deaths, journal = deaths_until_done(tmp_path / ".attempts" / "j", set(range(100)))
    assert journal.hopeless
    assert deaths == DEATHS_IN_A_ROW
    assert journal.given_up == set()


def test_what_was_found_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / ".attempts" / "j"
    for _ in range(4):
        attempt(path, {42})
    before = Journal(path, "run", TASK, 100).ranges()
    assert len(before) == 4
    journal = Journal(path, "another run", TASK, 100)
    assert journal.ranges() == before
    assert (journal.deaths, journal.summary()) == (0, "")
    # But not of another task, whose sequences or sets differ.
    assert Journal(path, "run", [0, 100, ["g"]], 100).ranges() == [(0, 100)]


def test_survives_torn_lines_and_stacks(tmp_path: Path) -> None:
    path = tmp_path / ".attempts" / "j"
    attempt(path, {3})
    with path.open("ab") as file:
        file.write(b'Timeout (0:00:05)!\nThread 0x7f (most recent call first):\n  File "x.py", line 3\n["ab')
    journal = Journal(path, "run", TASK, 100)
    assert (journal.deaths, journal.stood_still) == (1, 1)
    assert "1 worker died over it, 1 of them replaced because they stood still" in journal.summary()


def test_random_kills_beside_a_killer(tmp_path: Path) -> None:
    """Whatever else dies, the killer alone is given up."""
    dice = random.Random(5)
    for trial in range(20):
        path = tmp_path / ".attempts" / str(trial)
        for _ in range(200):
            ranges = Journal(path, f"looks on {trial}", TASK, 100).ranges()
            # A kill now and then; a sequence alone takes no time, so it is never hit.
            wide = [span for span in ranges if span[1] - span[0] > 1]
            hit = dice.choice(wide) if wide and dice.random() < 0.3 else None
            journal = attempt(path, {31}, dies_before=hit)
            if journal is not None and not journal.hopeless:
                break
        assert journal is not None
        assert journal.given_up == {31}


def test_sweeps_journals_of_what_is_finished(tmp_path: Path) -> None:
    """Those of this run only, and the folder when nothing is left."""
    sets = [vector_set(name="a"), vector_set(name="a-000000")]
    finished, lacking = Task(0, 0, 5, 9, (0, -1)), Task(1, 5, 9, 9, (1, 0))
    other = journal_path(tmp_path, sets[1:], Task(0, 0, 5, 9, (3,)))
    journals = [journal_path(tmp_path, sets, task) for task in (finished, lacking)]
    for path in (*journals, other):
        Journal(path, "run", TASK, 5).close(finished=False)
    sweep(tmp_path, sets[:1], [lacking])
    assert [path.exists() for path in (*journals, other)] == [False, True, True]
    sweep(tmp_path, sets, [])
    assert not (tmp_path / ".attempts").exists()
    sweep(tmp_path, sets, [])
