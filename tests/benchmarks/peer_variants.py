"""All single-nucleotide variants of one RNA on the CPU, ours against loops over multimolecule 0.0.8.

    python -m tests.benchmarks.peer_variants [--fasta FILE] [--length 200] [--layers 2] [--rounds 2]

Masked marginals: each position is masked while the others stand, so L nt ask for L passes and give 3 L scores. The
same random checkpoint with the widths of AIDO.RNA-650M, a few layers and a masked-LM head is loaded by four warm
processes with the same number of threads: the peer (AidoRnaForMaskedLM) and ours (`Model.variants`), each in float32
and in bfloat16. The peer is asked in two ways: in a plain loop, one masked copy at a time, as its users write it; and
in batches of 32 copies, its best reasonable use (all are of one length, so nothing is padded). A turn is the way from
the string to the (L, 4) table. Ratios are taken within a round, then the median over the rounds.

Neither side pads anything here, and both compute L passes of L + 2 tokens, so on a CPU, where one copy already
fills the cores, no great difference is to be expected; what differs is how attention is computed, that ours scores
the masked positions only, and how well large or small batches fit the caches. Results go to tests/benchmarks/results/
as JSON and Markdown. The peer lives in an environment of its own under `.bench/` (or RAYPIPE_BENCH_DIR).
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks import machine, options
from tests.benchmarks.peer_process import ROLES, Worker, checkpoint
from tests.benchmarks.peer_worker import PEER_BATCH
from tests.benchmarks.rounds import Rounds, Turn, interleave, loads, ratio, seconds, spread
from tests.benchmarks.samples import one

DTYPES = ("float32", "bfloat16")
WAYS = {"loop": 1, f"batches of {PEER_BATCH}": PEER_BATCH}
OURS = {dtype: f"raypipe {dtype}" for dtype in DTYPES}
PEER = {(dtype, way): f"multimolecule {dtype}, {way}" for dtype in DTYPES for way in WAYS}
COMPARISONS = tuple(
    (f"ours {ours} / peer {theirs}, {way}", PEER[theirs, way], OURS[ours])
    for ours, theirs in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))
    for way in WAYS
)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; returns what `markdown` makes a page of."""
    weights = checkpoint(given.layers, masked_lm=True)
    sequence = one(given.fasta, given.length)
    before = machine.describe()
    workers = [Worker(role, dtype, weights, "variants", given.threads) for role in ROLES for dtype in DTYPES]
    asked = {
        name: (worker, copies)
        for worker in workers
        for name, copies in (
            {OURS[worker.dtype]: 0}
            if worker.role == "raypipe"
            else {PEER[worker.dtype, way]: copies for way, copies in WAYS.items()}
        ).items()
    }
    scores: dict[str, np.ndarray] = {}

    def turn(name: str) -> Turn:
        worker, copies = asked[name]
        times = worker.ask([sequence], copies=copies)
        scores[name] = np.load(worker.saved)
        return times

    try:
        for worker in workers:
            worker.ask([sequence[:16]], copies=PEER_BATCH)
        rounds = interleave(list(asked), given.rounds, turn)
    finally:
        for worker in workers:
            worker.close()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": {worker.role: worker.hello["versions"] for worker in workers},
        "settings": {
            "fasta": given.fasta.name,
            "length": given.length,
            "sequence": sequence,
            "layers": given.layers,
            "threads": given.threads,
            "rounds": given.rounds,
        },
        "rounds": rounds,
        **summarise(rounds, scores),
    }


def summarise(rounds: Rounds, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Seconds of one RNA, ratios, and agreement.

    Args:
        rounds: the turns.
        scores: (L, 4) by contestant.

    Returns:
        `seconds` (with `cpu`, the median of processor time), `ratios` and `agreement`: of our scores with the peer's
        plain loop in float32, and of bfloat16 with float32 on each side. Differences are relative to the largest score.
    """
    taken = {
        name: {**spread(seconds(rounds, [name])), "cpu": spread(seconds(rounds, [name], "cpu_s"))["median"]}
        for name in rounds[0]
    }
    truth, ours, half = scores[PEER["float32", "loop"]], scores[OURS["float32"]], scores[OURS["bfloat16"]]
    peer_half = scores[PEER["bfloat16", "loop"]]
    return {
        "seconds": taken,
        "ratios": {label: ratio(rounds, [slow], [fast]) for label, slow, fast in COMPARISONS},
        "agreement": {
            "largest_score": float(np.abs(truth).max()),
            "float32_max_relative_difference": _difference(ours, truth),
            "peer_batches_max_relative_difference": _difference(
                scores[PEER["float32", f"batches of {PEER_BATCH}"]], truth
            ),
            "ours_bfloat16_max_relative_difference": _difference(half, ours),
            "peer_bfloat16_max_relative_difference": _difference(peer_half, truth),
            "ours_bfloat16_correlation": _correlation(half, ours),
            "peer_bfloat16_correlation": _correlation(peer_half, truth),
        },
    }


def _difference(scores: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(scores - reference).max() / np.abs(reference).max())


def _correlation(scores: np.ndarray, reference: np.ndarray) -> float:
    """Of the substitutions; the letter that stands there has 0 on both sides and is left out."""
    kept = reference != 0
    return float(np.corrcoef(scores[kept], reference[kept])[0, 1])


def markdown(result: dict[str, Any]) -> str:
    """A short page of one run."""
    settings, host, agreement = result["settings"], result["machine"], result["agreement"]
    peer, own = result["versions"]["multimolecule"], result["versions"]["raypipe"]
    length = settings["length"]
    lines = [
        f"# Variants of one RNA against multimolecule {peer['multimolecule']} on the CPU, {result['date']}",
        f"- One RNA of `{settings['fasta']}` with {length} nt: {length} masked passes, {3 * length} substitutions.",
        f"- Widths of the 650M model, {settings['layers']} layers, masked-LM head, random weights; "
        f"{settings['threads']} threads; {settings['rounds']} interleaved rounds.",
        f"- The peer in a plain loop, one masked copy at a time, and in batches of {PEER_BATCH} copies. "
        "All copies have one length: neither side pads.",
        f"- {machine.words(host)}; torch {peer['torch']} (peer) and {own['torch']} (ours), "
        f"transformers {peer['transformers']}.",
        f"- {machine.load_words(host, loads(result['rounds']), settings['threads'])}",
        "",
        "| | seconds, median | range | processor seconds | masked passes per second |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {s['median']:.2f} | {s['low']:.2f}-{s['high']:.2f} | {s['cpu']:.2f} | "
            f"{length / s['median']:.1f} |"
            for name, s in result["seconds"].items()
        ),
        "",
        "| ratio | median | range | by processor time |",
        "|---|---|---|---|",
        *(
            f"| {name} | {r['median']:.2f}x | {r['low']:.2f}-{r['high']:.2f}x | {r['cpu']:.2f}x |"
            for name, r in result["ratios"].items()
        ),
        "",
        "Where other programs ran beside, the ratios by processor time are the steadier ones.",
        "",
        "Agreement of the scores, largest difference relative to the largest score "
        f"({agreement['largest_score']:.2f}):",
        f"- ours against the peer's loop in float32: {agreement['float32_max_relative_difference']:.1e} "
        f"(the peer's batches against its loop: {agreement['peer_batches_max_relative_difference']:.1e});",
        f"- our bfloat16 against our float32: {agreement['ours_bfloat16_max_relative_difference']:.1e}, "
        f"correlation {agreement['ours_bfloat16_correlation']:.5f};",
        f"- the peer's bfloat16 against its float32: {agreement['peer_bfloat16_max_relative_difference']:.1e}, "
        f"correlation {agreement['peer_bfloat16_correlation']:.5f}.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__, layers=2, rounds=2)
    parser.add_argument("--length", type=int, default=200)
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "peer_variants", result, markdown(result))


if __name__ == "__main__":
    main()
