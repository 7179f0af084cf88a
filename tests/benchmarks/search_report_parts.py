"""Goals of the search benchmark with what was measured, and the sections on filters and growth of its page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MIB = 1 << 20
GB = 1e9
# Times our batch rate has to be that of each at equal recall.
PEER_GOALS = {"hnswlib": 1.5, "scann": 2.5, "usearch": 3.0, "lancedb": 10.0}
LEAST_FILTERED, MOST_FILTERED_MS = 0.99, 1.0
MOST_BYTES, MOST_OPEN_S, LEAST_BUILD = 200, 0.3, 20_000
# Of the growth: rows at which opening and recall are judged, and the memory and time that far more rows may take.
LARGE, LARGE_RECALL, FAR_BYTES, FAR_MS = 1_000_000, 0.99, 24e9, 50


class Goal(NamedTuple):
    """A line of the table of goals; `met` is None where what it needs was not measured."""

    what: str
    goal: str
    measured: str
    met: bool | None


def verdicts(found: Iterable[Goal]) -> Iterator[tuple[Goal, str]]:
    """Each goal with a word."""
    for goal in found:
        yield goal, "" if goal.met is None else "met" if goal.met else "MISSED"


def goals(result: dict[str, Any]) -> list[Goal]:
    """Every goal that this run has something to say about."""
    made = [*_contest(result), *_memory_and_build(result)]
    if result["filters"]:
        made += _filters(result["filters"])
    if result["growth"]:
        made += _growth(result["growth"])
    return made


def _contest(result: dict[str, Any]) -> list[Goal]:
    summary, target = result["summary"], result["settings"]["recall"]
    ours, exact, reference = summary["ours"], summary["exact"], summary["reference"]
    entrants = result["contest"]["entrants"]
    reached = ours in summary["reached"]
    found, p50 = summary["ratios"][reference], summary["speed"][ours]["p50_ms"]
    made = [
        Goal(f"recall of {ours}", f">= {target}", f"{entrants[ours]['recall']:.4f}", reached),
        _times(f"batch, against exact search ({reference})", found["batch"], 20, reached),
        _times("one query, against the same", found["single"], 200, reached),
        Goal("one query, p50", "< 0.5 ms", f"{p50['median']:.3f} ms", reached and p50["median"] < 0.5),
    ]
    for name, least in PEER_GOALS.items():
        if name in entrants:
            fair = "" if name in summary["reached"] else f" (at its recall of {entrants[name]['recall']:.4f})"
            found = summary["tuned_ratios"][name]["batch"]
            made.append(_times(f"batch, both tuned, against {name}{fair}", found, least, reached))
    same = entrants[exact]["exact_recall"]
    return [
        *made,
        _times("exact mode, against FAISS Flat as it comes", summary["exact_ratio"]["batch"], 1.8, True),
        Goal("exact mode, the same neighbours", "all", f"{same:.4%}", same == 1.0),
    ]


def _times(what: str, found: dict[str, float], least: float, fair: bool) -> Goal:
    measured = f"{found['median']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
    return Goal(what, f">= {least:g}x", measured, fair and found["median"] >= least)


def _memory_and_build(result: dict[str, Any]) -> list[Goal]:
    contest, rows = result["contest"], result["settings"]["rows"]
    memory = contest["memory"]
    build = contest["entrants"][result["summary"]["ours"]]["build"]
    rate, opened = rows / build["cpu_s"], memory["open_s"]
    return [
        Goal(
            "hot memory, bytes per vector",
            f"<= {MOST_BYTES}",
            f"{memory['hot']:.0f} ({memory['anonymous']:.0f} private)",
            memory["hot"] <= MOST_BYTES,
        ),
        Goal(f"opening {rows:,} vectors", "", f"{1000 * opened:.0f} ms", None),
        Goal("build, vectors per CPU second", f">= {LEAST_BUILD:,}", f"{rate:,.0f}", rate >= LEAST_BUILD),
    ]


def _filters(found: dict[str, Any]) -> list[Goal]:
    each = found["filters"].values()
    worst = min(one["recall"] for one in each)
    many, single = (max(one[f"{way}_cpu_ms"]["median"] for one in each) for way in ("batch", "single"))
    full = all(one["full"] for one in each)
    return [
        Goal("filtered, the lowest recall", f">= {LEAST_FILTERED}", f"{worst:.4f}", worst >= LEAST_FILTERED),
        Goal("filtered, always min(k, matches) hits", "all", "all" if full else "not all", full),
        *(
            Goal(
                f"filtered, {way}: most CPU ms of a query, {found['rows']:,} vectors",
                f"<= {MOST_FILTERED_MS:g}",
                f"{most:.3f}",
                most <= MOST_FILTERED_MS,
            )
            for way, most in (("in a batch", many), ("one by one", single))
        ),
    ]


def _growth(found: dict[str, Any]) -> list[Goal]:
    largest, fits = max(found["sizes"], key=lambda one: one["rows"]), found["fits"]
    rows, enough = largest["rows"], largest["rows"] >= LARGE
    opened = largest["memory"]["open_s"]
    made = [
        Goal(
            f"{rows:,} vectors: recall",
            f">= {LARGE_RECALL}",
            f"{largest['recall']:.4f}",
            largest["recall"] >= LARGE_RECALL if enough else None,
        ),
        Goal(
            f"{rows:,} vectors: opening",
            f"< {MOST_OPEN_S} s",
            f"{opened:.3f} s",
            opened < MOST_OPEN_S if enough else None,
        ),
    ]
    if fits["p50_ms"]:
        p50, hot = fits["p50_ms"]["far"], fits["hot_bytes"]["far"]
        made += [
            Goal(
                "42 million vectors, extrapolated: p50",
                f"<= {FAR_MS} ms",
                f"{p50:.1f} ms",
                p50 <= FAR_MS if enough else None,
            ),
            Goal(
                "42 million vectors, extrapolated: hot memory",
                f"<= {FAR_BYTES / GB:.0f} GB",
                f"{hot / GB:.1f} GB",
                hot <= FAR_BYTES if enough else None,
            ),
        ]
    return made


def filter_section(found: dict[str, Any]) -> list[str]:
    """Filtered search, filter by filter."""
    point = ", ".join(f"{key} {value}" for key, value in found["point"].items()) or "as built"
    lines = [
        f"## Filters, {found['rows']:,} vectors, {found['type']}",
        f"Searched {point}; unfiltered recall {found['unfiltered_recall']:.4f}. A batch has {found['batch']} queries. "
        "The seq_ids that a filter lets through are given to the call: what SQL takes to find them is not in it.",
        "",
        "| filter | matches | recall | all hits there | CPU ms/query in a batch | one by one, CPU ms | p50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found["filters"].items():
        many, single = one["batch_cpu_ms"], one["single_cpu_ms"]
        lines.append(
            f"| {name} | {one['matches']:,} | {one['recall']:.4f} | {'yes' if one['full'] else 'NO'} | "
            f"{many['median']:.3f} ({many['low']:.3f} to {many['high']:.3f}) | {single['median']:.3f} "
            f"({single['low']:.3f} to {single['high']:.3f}) | {one['p50_ms']['median']:.3f} |"
        )
    return [*lines, ""]


def growth_section(found: dict[str, Any]) -> list[str]:
    """Growth of our index, and what is fitted to it."""
    lines = [
        "## Growth",
        "Sizes are the first rows of one set. Times and processor seconds are fitted as factor * rows ** exponent "
        "(least squares of logarithms), bytes as a straight line; the last row says what the fits give for 42 million "
        "vectors, which nobody measured.",
        "",
        "| vectors | type | recall | queries/s in a batch | CPU ms/query | p50 ms | p99 ms | hot bytes per vector "
        "| private | open, ms | build, vectors per CPU s | peak of the build, GB | index, GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found["sizes"]:
        build, memory = one["build"], one["memory"]
        lines.append(
            f"| {one['rows']:,} | {build['type']} | {one['recall']:.4f} | {one['rate']['median']:,.0f} | "
            f"{one['batch_cpu_ms']['median']:.3f} | {one['p50_ms']['median']:.3f} ({one['p50_ms']['low']:.3f} to "
            f"{one['p50_ms']['high']:.3f}) | {one['p99_ms']['median']:.3f} | {memory['hot']:.0f} | "
            f"{memory['anonymous']:.0f} | {1000 * memory['open_s']:.0f} | {one['rows'] / build['cpu_s']:,.0f} | "
            f"{build['peak_bytes'] / GB:.2f} | {build['bytes'] / GB:.2f} |"
        )
    fits = found["fits"]
    if fits["p50_ms"]:
        far = {name: fitted["far"] for name, fitted in fits.items()}
        lines.append(
            f"| 42,000,000, extrapolated | | | | {far['batch_cpu_ms']:.2f} | {far['p50_ms']:.2f} | | "
            f"{far['hot_bytes'] / 42e6:.0f} | | | {42e6 / far['build_cpu_s']:,.0f} | {far['peak_bytes'] / GB:.1f} | "
            f"{far['index_bytes'] / GB:.0f} |"
        )
        hot = fits["hot_bytes"]
        lines += [
            "",
            f"Exponents: p50 {fits['p50_ms']['exponent']:.2f}, CPU of a query in a batch "
            f"{fits['batch_cpu_ms']['exponent']:.2f}, CPU of the build {fits['build_cpu_s']['exponent']:.2f}. Hot "
            f"memory: {hot['slope']:.0f} bytes per vector and {hot['start'] / MIB:.0f} MiB.",
        ]
    return [*lines, ""]
