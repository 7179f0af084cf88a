"""Arithmetic and page of the search benchmark; see search.py."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.rounds import Rounds, loads, ratio, spread
from tests.benchmarks.search_contenders import FLAT
from tests.benchmarks.search_report_parts import MIB, filter_section, goals, growth_section, verdicts

EXACT = "raypipe exact"
TUNED = ", tuned"
__all__ = ["EXACT", "TUNED", "markdown", "summarise"]


def summarise(contest: dict[str, Any], queries: int, target: float) -> dict[str, Any]:
    """Speeds and ratios.

    Args:
        contest: `rounds` and `entrants`, as search.py makes them.
        queries: of a batch.
        target: recall that was asked for.

    Returns:
        `speed`: by entrant `rate` (queries/s of a batch), `cpu_ms` of a query in it, `p50_ms` and `p99_ms` of single
        ones. `reference`: the faster exact search. `ours`, `exact`: names of our entrants. `ratios`: by entrant how
        many times longer it takes than ours: `batch` and `single` (p50). `tuned`: name of ours, tuned as the peers are,
        and `tuned_ratios` as `ratios`. `exact_ratio`: FAISS Flat as it comes to our
        exact mode. `reached`: names with the recall that was asked for.
    """
    rounds, entrants = contest["rounds"], contest["entrants"]
    flats = [name for name in entrants if name.startswith(FLAT)]
    ours = next(name for name in entrants if name.startswith("raypipe") and not name.startswith(EXACT))
    exact = next(name for name in entrants if name.startswith(EXACT))
    tuned = f"{ours}{TUNED}"
    speed = {name: _speed(rounds, name, queries) for name in entrants}
    return {
        "speed": speed,
        "reference": max(flats, key=lambda name: speed[name]["rate"]["median"]),
        "ours": ours,
        "exact": exact,
        "ratios": {name: _ratios(rounds, name, ours) for name in entrants if name != ours},
        "tuned": tuned,
        "tuned_ratios": {name: _ratios(rounds, name, tuned) for name in entrants if name != tuned},
        "exact_ratio": _ratios(rounds, FLAT, exact),
        "reached": [name for name, one in entrants.items() if one["recall"] >= target],
    }


def _speed(rounds: Rounds, name: str, queries: int) -> dict[str, Any]:
    many, one = ([times[f"{name}: {way}"] for times in rounds] for way in ("batch", "single"))
    return {
        "rate": spread([queries / times["wall_s"] for times in many]),
        "cpu_ms": spread([1000 * times["cpu_s"] / queries for times in many]),
        "p50_ms": spread([times["p50_ms"] for times in one]),
        "p99_ms": spread([times["p99_ms"] for times in one]),
    }


def _ratios(rounds: Rounds, slow: str, fast: str) -> dict[str, Any]:
    singles = [times[f"{slow}: single"]["p50_ms"] / times[f"{fast}: single"]["p50_ms"] for times in rounds]
    return {"batch": ratio(rounds, [f"{slow}: batch"], [f"{fast}: batch"]), "single": spread(singles)}


def markdown(result: dict[str, Any]) -> str:
    """A page of one run."""
    settings, about = result["settings"], result["set"]
    what = f"of `{settings['vectors']}`" if settings["vectors"] else f"made with seed {settings['seed']}"
    return "\n".join(
        [
            f"# Search, {result['date']}",
            f"- {settings['rows']:,} vectors of {settings['dimension']} values, {what}, and {settings['queries']:,} "
            f"queries that are not among them; 10 neighbours; {settings['threads']} threads; {settings['rounds']} "
            "interleaved rounds; medians (lowest to highest).",
            f"- The set: mean cosine of random pairs {about['pair_cosine']:.2f}, of a query and its 100th neighbour "
            f"{about['neighbour_cosine']:.2f} (median); 90, 95 and 99 % of the variance on {about['axes_90']:.0f}, "
            f"{about['axes_95']:.0f} and {about['axes_99']:.0f} axes; local dimension {about['local_dimension']:.1f}.",
            f"- {machine.words(result['machine'])}.",
            f"- {machine.load_words(result['machine'], loads(result['contest']['rounds']), settings['threads'])}",
            "- `python -m tests.benchmarks.search`; how everything is measured stands at its top.",
            "",
            "| goal | | measured | |",
            "|---|---|---|---|",
            *(
                f"| {goal.what} | {goal.goal} | {goal.measured} | {verdict} |"
                for goal, verdict in verdicts(goals(result))
            ),
            "",
            *_contest(result),
            *_memory(result["contest"]["memory"]),
            *(filter_section(result["filters"]) if result["filters"] else []),
            *(growth_section(result["growth"]) if result["growth"] else []),
        ]
    )


def _contest(result: dict[str, Any]) -> list[str]:
    summary, entrants = result["summary"], result["contest"]["entrants"]
    rows = result["settings"]["rows"]
    lines = [
        "## Everybody",
        "| | tuned to | recall | queries/s in a batch | CPU ms/query | one query, p50 ms | p99 ms "
        "| build, CPU s | build, vectors per CPU s | private memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in entrants.items():
        speed, build = summary["speed"][name], one["build"]
        rate, p50, p99 = speed["rate"], speed["p50_ms"], speed["p99_ms"]
        point = ", ".join(f"{key} {value}" for key, value in one["point"].items()) or "as built"
        private = f"{build['anonymous'] / MIB:,.0f}" if "anonymous" in build else "below"
        cpu = build["cpu_s"]
        lines.append(
            f"| {_title(name, one)} | {point} | {one['recall']:.4f} | {rate['median']:,.0f} ({rate['low']:,.0f} to "
            f"{rate['high']:,.0f}) | {speed['cpu_ms']['median']:.3f} | {p50['median']:.3f} ({p50['low']:.3f} to "
            f"{p50['high']:.3f}) | {p99['median']:.3f} | {cpu:.1f} | {rows / cpu:,.0f} | {private} |"
        )
    lines += _compared(summary["ours"], summary["ratios"]) + _compared(summary["tuned"], summary["tuned_ratios"])
    missed = [name for name in entrants if name not in summary["reached"]]
    if missed:
        lines += ["", f"Below a recall of {result['settings']['recall']}: {', '.join(missed)}."]
    by_hand = [
        name
        for name, one in entrants.items()
        if name.startswith("raypipe") and "nprobe" in one["point"] and not name.endswith(TUNED)
    ]
    if by_hand:
        lines += ["", f"The index's own choice missed that recall, `nprobe` was raised by hand: {', '.join(by_hand)}."]
    return [*lines, ""]


def _compared(ours: str, ratios: dict[str, Any]) -> list[str]:
    lines = ["", f"Times as fast as each, {ours}:", ""]
    lines += ["| | batch | by processor time | one query, p50 |", "|---|---|---|---|"]
    for name, found in ratios.items():
        many, one = found["batch"], found["single"]
        lines.append(
            f"| {name} | {many['median']:.2f}x ({many['low']:.2f} to {many['high']:.2f}) | {many['cpu']:.2f}x | "
            f"{one['median']:.1f}x ({one['low']:.1f} to {one['high']:.1f}) |"
        )
    return lines


def _title(name: str, one: dict[str, Any]) -> str:
    """Name with the type of index, or the version of the package."""
    if "type" in one["build"]:
        return f"{name}: {one['build']['type']}"
    package = "faiss-cpu" if name.startswith(FLAT) else name
    return f"{name} {one['versions'].get(package, '')}".strip()


def _memory(memory: dict[str, Any]) -> list[str]:
    """Bytes per vector of our index, and how long it takes to open."""
    return [
        "## Memory of our index",
        f"A process that opened it and answered {memory['queries']:,} queries one by one. Bytes per vector:",
        "",
        "| | bytes per vector |",
        "|---|---|",
        f"| private: what the process grew by | {memory['anonymous']:.0f} |",
        f"| mapped: pages of the index's files in its memory | {memory['mapped']:.0f} |",
        f"| touched: those of them that the queries read | {memory['touched']:.0f} |",
        f"| hot: private and touched, without files that only refine | {memory['hot']:.0f} |",
        *(
            f"| {name}: mapped / touched | {held['resident']:.0f} / {held['referenced']:.0f} |"
            for name, held in sorted(memory["files"].items())
        ),
        "",
        f"Opening it took {1000 * memory['first_open_s']:.0f} ms at first and {1000 * memory['open_s']:.0f} ms "
        "afterwards (median), its files in the memory of the system.",
        "",
    ]
