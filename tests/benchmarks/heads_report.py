"""Arithmetic and page of the comparison of one pass with several; see heads.py."""

from __future__ import annotations

import statistics
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.head_checkpoints import CONFIGS
from tests.benchmarks.rounds import Rounds, loads, ratio, seconds, spread

HEADS = tuple(CONFIGS)
ONE_PASS = "three heads, one pass"
EMBEDDINGS = "embeddings"
EVERYTHING = "embeddings and three heads, one pass"
TRUNK = "trunk alone"


def alone(head: str) -> str:
    """What the turn of a head without the trunk is called."""
    return f"{head} head alone"


# name, turns of several passes, turn of one pass, number of passes
COMPARISONS = (
    ("three heads: three passes / one", HEADS, ONE_PASS, 3),
    ("embeddings and three heads: four passes / one", (EMBEDDINGS, *HEADS), EVERYTHING, 4),
)


def summarise(rounds: Rounds, layers: int, published: int) -> dict[str, Any]:
    """Times, ratios, and what they could be at best.

    Args:
        rounds: the turns.
        layers: of the trunk.
        published: layers that the model of these widths has.

    Returns:
        `layers`, `rounds`, `seconds` (by turn), `ratios`: with `ideal`, (n T + H) / (T + H) of the parts T (trunk) and
        H (all heads) within each round, its median; and `published_layers`, the same with T as long as `published`
        layers would take: reckoned, not measured.
    """
    heads = [alone(head) for head in HEADS]
    trunk, work = seconds(rounds, [TRUNK]), seconds(rounds, heads)
    ratios: dict[str, Any] = {}
    for label, several, one, passes in COMPARISONS:
        ratios[label] = {
            **ratio(rounds, several, [one]),
            "ideal": _ideal(trunk, work, passes),
            "published_layers": _ideal([t * published / layers for t in trunk], work, passes),
        }
    return {
        "layers": layers,
        "published_layers": published,
        "rounds": rounds,
        "seconds": {
            **{name: spread(seconds(rounds, [name])) for name in rounds[0]},
            **{label: spread(seconds(rounds, several)) for label, several, _, _ in COMPARISONS},
        },
        "head_share": statistics.median(h / (t + h) for t, h in zip(trunk, work, strict=True)),
        "ratios": ratios,
    }


def _ideal(trunk: list[float], heads: list[float], passes: int) -> float:
    return statistics.median((passes * t + h) / (t + h) for t, h in zip(trunk, heads, strict=True))


def markdown(result: dict[str, Any]) -> str:
    """A short page of one run."""
    settings, host, lengths = result["settings"], result["machine"], result["lengths"]
    during = [load for case in result["cases"].values() for load in loads(case["rounds"])]
    lines = [
        f"# Three heads in one pass against three passes on the CPU, {result['date']}",
        f"- {settings['sequences']} sequences of `{settings['fasta']}`, evenly by length, cut at {lengths['longest']} "
        f"nt: mean {lengths['mean']:.0f}, median {lengths['median']:.0f}.",
        "- Heads: `rna_type` reads one vector per sequence, `loops` each nucleotide, `structure` each pair; random "
        f"weights, float32. Trunk in {settings['dtype']}; {settings['threads']} threads; {settings['rounds']} "
        "interleaved rounds.",
        f"- {machine.words(host)}; torch {result['versions']['torch']}.",
        f"- {machine.load_words(host, during, settings['threads'])}",
        "",
    ]
    for name, case in result["cases"].items():
        lines += _case(name, case)
    return "\n".join(lines)


def _case(name: str, case: dict[str, Any]) -> list[str]:
    taken, share, difference = case["seconds"], case["head_share"], case["largest_difference"]
    slowest = max(HEADS, key=lambda head: taken[alone(head)]["median"])
    whole = case["layers"] == case["published_layers"]
    reckoned = "" if whole else f" reckoned for {case['published_layers']} layers |"
    lines = [
        f"## Trunk: {name}, {case['layers']} layers"
        if whole
        else f"## Trunk: widths of {name}, {case['layers']} layers",
        "| | seconds, median | range |",
        "|---|---|---|",
        *(f"| {label} | {s['median']:.3f} | {s['low']:.3f}-{s['high']:.3f} |" for label, s in taken.items()),
        "",
        f"| ratio | median | range | by processor time | ideal, from the parts |{reckoned}",
        "|---|---|---|---|---|" + ("" if whole else "---|"),
    ]
    for label, r in case["ratios"].items():
        row = (
            f"| {label} | {r['median']:.2f}x | {r['low']:.2f}-{r['high']:.2f}x | {r['cpu']:.2f}x | {r['ideal']:.2f}x |"
        )
        lines.append(row + ("" if whole else f" {r['published_layers']:.2f}x |"))
    return [
        *lines,
        "",
        f"The heads are {share:.0%} of the work of one pass, most of it the `{slowest}` head's. Further passes repeat "
        f"the trunk, never a head{'; here there is little to save' if share > 0.5 else ''}.",
        "Largest difference between what a head says in the pass of three and alone: "
        + (f"{difference:.1e}." if difference else "none, to the last bit."),
        "",
    ]
