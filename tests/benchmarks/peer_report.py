"""Arithmetic and page of the comparison with multimolecule; see peer_multimolecule.py."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from tests.benchmarks import machine
from tests.benchmarks.peer_worker import PEER_BATCH
from tests.benchmarks.rounds import Rounds, loads, ratio, spread

SPECIALS = 2

# name, faster, slower, target of the ratio of embeddings per second (None: stated without a target)
COMPARISONS = (
    ("ours float32 / peer float32", "raypipe float32", "multimolecule float32", 3.0),
    ("ours bfloat16 / peer float32", "raypipe bfloat16", "multimolecule float32", 6.0),
    ("ours bfloat16 / peer bfloat16", "raypipe bfloat16", "multimolecule bfloat16", None),
)
LEAST_COSINE = 0.999


def padding(lengths: list[int]) -> dict[str, float]:
    """What the peer's batches compute beside the real tokens.

    Args:
        lengths: nucleotides of each sequence, in the order of the batches.

    Returns:
        `tokens` (specials counted), `padded_tokens`, and `factor`, the second over the first.
    """
    tokens = [length + SPECIALS for length in lengths]
    batches = [tokens[start : start + PEER_BATCH] for start in range(0, len(tokens), PEER_BATCH)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    return {"tokens": sum(tokens), "padded_tokens": padded, "factor": padded / sum(tokens)}


def summarise(rounds: Rounds, embeddings: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    """Speeds, ratios and agreement.

    Args:
        rounds: for each round and variant `wall_s`, `cpu_s` and the load average after it.
        embeddings: (S, D) by variant.
        count: sequences S embedded in each turn.

    Returns:
        `speed` (embeddings per second by wall clock, and per second of processor time, over the rounds),
        `ratios` (within rounds, then median and range) and `agreement`.
    """
    speed = {}
    for name in rounds[0]:
        rates = [count / times[name]["wall_s"] for times in rounds]
        speed[name] = {
            **spread(rates),
            "per_cpu_s": statistics.median(count / times[name]["cpu_s"] for times in rounds),
        }
    ratios = {label: {**ratio(rounds, [slow], [fast]), "target": target} for label, fast, slow, target in COMPARISONS}
    ours, theirs = embeddings["raypipe float32"], embeddings["multimolecule float32"]
    return {"speed": speed, "ratios": ratios, "agreement": _agreement(ours, theirs, embeddings)}


def _agreement(ours: np.ndarray, theirs: np.ndarray, embeddings: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest float32 difference relative to each embedding's largest value, and cosines of bfloat16."""
    difference = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)
    own = _cosines(embeddings["raypipe bfloat16"], ours)
    peer = _cosines(embeddings["multimolecule bfloat16"], theirs)
    return {
        "float32_max_relative_difference": float(difference.max()),
        "ours_bfloat16_cosine_worst": float(own.min()),
        "ours_bfloat16_cosine_median": float(np.median(own)),
        "peer_bfloat16_cosine_worst": float(peer.min()),
        "cosine_between_sequences_median": float(np.median(_cosines(theirs[:-1], theirs[1:]))),
    }


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def markdown(result: dict[str, Any]) -> str:
    """A short page of one run."""
    settings, host, pad = result["settings"], result["machine"], result["padding"]
    lengths, agreement = result["lengths"], result["agreement"]
    peer, own = result["versions"]["multimolecule"], result["versions"]["raypipe"]
    worst, median = agreement["ours_bfloat16_cosine_worst"], agreement["ours_bfloat16_cosine_median"]
    lines = [
        f"# Against multimolecule {peer['multimolecule']} on the CPU, {result['date']}",
        f"- {settings['sequences']} sequences of `{settings['fasta']}`, evenly by length, "
        f"shuffled with seed {settings['seed']}: "
        f"mean {lengths['mean']:.0f}, median {lengths['median']:.0f}, longest {lengths['longest']} nt.",
        f"- Widths of the 650M model, {settings['layers']} layers, random weights; "
        f"{settings['threads']} threads; {settings['rounds']} interleaved rounds.",
        f"- The peer's padded batches of {PEER_BATCH} compute {pad['padded_tokens']:,} tokens for "
        f"{pad['tokens']:,} real ones: {pad['factor']:.2f}x. Ours pads nothing.",
        f"- {machine.words(host)}; "
        f"torch {peer['torch']} (peer) and {own['torch']} (ours), transformers {peer['transformers']}.",
        f"- {machine.load_words(host, loads(result['rounds']), settings['threads'])}",
        "",
        "| | embeddings/s, median | range | per second of processor time |",
        "|---|---|---|---|",
        *(
            f"| {name} | {s['median']:.2f} | {s['low']:.2f}-{s['high']:.2f} | {s['per_cpu_s']:.2f} |"
            for name, s in result["speed"].items()
        ),
        "",
        "| ratio | median | range | by processor time | target |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {r['median']:.2f}x | {r['low']:.2f}-{r['high']:.2f}x | {r['cpu']:.2f}x | {_verdict(r)} |"
            for name, r in result["ratios"].items()
        ),
        "",
        "Where other programs ran beside, the ratios by processor time are the steadier ones.",
        "",
        "Agreement of the mean-pooled embeddings:",
        "- ours against the peer's in float32, largest difference relative to the embedding's largest value: "
        f"{agreement['float32_max_relative_difference']:.1e};",
        f"- our bfloat16 against our float32, cosine: worst {worst:.6f}, median {median:.6f} "
        f"(target: worst at least {LEAST_COSINE}: {_met(worst >= LEAST_COSINE)});",
        f"- the peer's bfloat16 against its float32, cosine: worst {agreement['peer_bfloat16_cosine_worst']:.6f};",
        "- for scale, two different sequences with these random weights, median cosine: "
        f"{agreement['cosine_between_sequences_median']:.3f}.",
        "",
    ]
    return "\n".join(lines)


def _verdict(ratio: dict[str, Any]) -> str:
    if ratio["target"] is None:
        return "none set"
    return f"{ratio['target']:.0f}x: {_met(ratio['median'] >= ratio['target'])}"


def _met(reached: bool) -> str:
    return "met" if reached else "MISSED"
