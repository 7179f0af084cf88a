"""Interleaved rounds: everybody takes a turn in each, so that a busy machine disturbs all of them alike.

Ratios are taken within a round, then the median over the rounds.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

Turn = dict[str, float]
"""`wall_s`, `cpu_s` (processor time of all threads) and, after the turn, `load_average` of one minute."""
Rounds = list[dict[str, Turn]]
"""For each round the turn of each contestant."""


def interleave(names: Sequence[str], rounds: int, turn: Callable[[str], Turn]) -> Rounds:
    """Let everybody take a turn in each round; who begins moves on from round to round.

    Args:
        names: the contestants.
        rounds: how many.
        turn: takes the turn of one, returns `wall_s` and `cpu_s`.
    """
    done: Rounds = []
    width = max(map(len, names))
    for number in range(rounds):
        first = number % len(names)
        times: dict[str, Turn] = {}
        for name in [*names[first:], *names[:first]]:
            times[name] = turn(name)
            times[name]["load_average"] = os.getloadavg()[0]
            print(f"round {number + 1}: {name:{width}s} {times[name]['wall_s']:9.3f} s", flush=True)
        done.append(times)
    return done


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def seconds(rounds: Rounds, names: Sequence[str], clock: str = "wall_s") -> list[float]:
    """Time of several turns together, one number for each round."""
    return [sum(times[name][clock] for name in names) for times in rounds]


def ratio(rounds: Rounds, slow: Sequence[str], fast: Sequence[str]) -> dict[str, Any]:
    """How many times longer `slow` took than `fast`, turns added up: by wall clock, and `cpu` by processor time."""
    wall, cpu = (
        [a / b for a, b in zip(seconds(rounds, slow, clock), seconds(rounds, fast, clock), strict=True)]
        for clock in ("wall_s", "cpu_s")
    )
    return {**spread(wall), "cpu": statistics.median(cpu)}


def loads(rounds: Rounds) -> list[float]:
    """Every load average that was seen."""
    return [turn["load_average"] for times in rounds for turn in times.values()]
