"""What a recall is worth: families that are found by visiting few lists, and by visiting all.

    python -m tests.benchmarks.families rfam_seed.parquet [--cache FOLDER] [--sample 1500] [--lists 512]

Recall@10 counts the ten nearest vectors alike, whether they are relatives or what merely happens to be nearest. Here an
index of the table's vectors is searched with rising nprobe, and the hits are judged as `raypipe eval retrieval` judges
those of a tool: hits of the query's own cluster do not count, right is another sequence of its family. With vectors as
they are and whitened, which is what `raypipe index` does. Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.exact import NO_HIT, exact_search
from index.faiss_runtime import load_faiss
from index.inverted import Filler, train
from index.kmeans import NearestByBlas
from index.retrieval import Question, measure, rank_listed
from index.trained import untrained
from index.transforms import fit
from index.vectors import unit_rows
from raypipe.checkpoints import find_checkpoint
from raypipe.evaluation.labelled import read_labelled
from raypipe.evaluation.retrieval import choose_queries
from raypipe.evaluation.settings import RetrievalSettings
from raypipe.evaluation.vector_cache import vectors_of
from tests.benchmarks import machine, options

TRANSFORMS = ("whiten", "none")
# Hits that are looked at for a relative, beside those of the own cluster; and neighbours that recall is of.
LISTED, NEIGHBOURS = 500, 10
# Candidates that are refined for each of the neighbours, and for each hit that is listed.
K_FACTOR, LISTED_K_FACTOR = 16.0, 4.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--sample", type=int, default=1500)
    parser.add_argument("--lists", type=int, default=512)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--results", type=Path, default=options.RESULTS)
    given = parser.parse_args(arguments)
    result = run(given)
    options.write(given.results, "families", result, page(result))


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Every transform and effort; returns what `page` makes a page of."""
    before = machine.describe()
    settings = RetrievalSettings(sample=given.sample, baselines=["none"], dtype="bfloat16", cache=given.cache)
    labelled = read_labelled(given.table, settings)
    question, asked = choose_queries(given.table, labelled, settings)[0].questions["family"]
    checkpoint = find_checkpoint(given.model)
    (stored,) = vectors_of(checkpoint, labelled.sequences, [("mean", -1)], settings, print)
    raw = unit_rows(stored, np.arange(len(stored)), "row")
    return {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": machine.versions(),
        "settings": {"table": Path(given.table).name, "model": checkpoint.name, "lists": given.lists},
        "sequences": len(raw),
        "queries": len(asked),
        "rows": [
            {"transform": name, **row}
            for name in TRANSFORMS
            for row in _efforts(
                fit(raw, name, fingerprint=checkpoint.fingerprint).apply(raw), given.lists, question, asked
            )
        ],
    }


def _efforts(vectors: np.ndarray, lists: int, question: Question, asked: np.ndarray) -> list[dict[str, Any]]:
    queries, listed = vectors[asked], min(LISTED, len(vectors))
    truth, _ = exact_search([(np.arange(len(vectors)), vectors)], queries, listed)
    index = untrained(f"IVF{lists},RaBitQ,Refine(SQfp16)", vectors.shape[1])
    train(index, vectors, NearestByBlas(), 0)
    Filler(index, NearestByBlas()).add(vectors)
    rows = [{"nprobe": None, "recall": 1.0, **_families(truth, question, asked)}]
    for nprobe in [*(2**power for power in range(lists.bit_length()) if 2**power < lists), lists]:
        # By FAISS itself: ours visits more lists where a query found too few.
        _, found = index.search(queries, listed, params=_effort(nprobe, LISTED_K_FACTOR))
        begun = time.perf_counter()
        _, nearest = index.search(queries, NEIGHBOURS + 1, params=_effort(nprobe, K_FACTOR))
        spent = (time.perf_counter() - begun) / len(queries)
        rows.append({"nprobe": nprobe, "recall": _recall(nearest, truth, asked), "ms": 1e3 * spent})
        rows[-1] |= _families(found, question, asked)
    return rows


def _effort(nprobe: int, k_factor: float) -> Any:
    faiss = load_faiss()
    return faiss.IndexRefineSearchParameters(
        k_factor=k_factor, base_index_params=faiss.SearchParametersIVF(nprobe=nprobe)
    )


def _families(found: np.ndarray, question: Question, asked: np.ndarray) -> dict[str, float]:
    hits = {int(query): row[row != NO_HIT] for query, row in zip(asked, found, strict=True)}
    judged = measure(rank_listed(hits, question, asked), question.group[asked])
    return {"top1": judged.top1, "top1_error": judged.top1_error, "any10": judged.any10}


def _recall(found: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> float:
    """Of the ten nearest beside the query itself."""
    shares = []
    for line, wanted, own in zip(found.tolist(), truth.tolist(), asked.tolist(), strict=True):
        right = [row for row in wanted if row != own][:NEIGHBOURS]
        listed = [row for row in line if row != own][:NEIGHBOURS]
        shares.append(len({*right} & {*listed}) / len(right))
    return float(np.mean(shares))


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings = result["settings"]
    lines = [
        f"# What a recall is worth in families, {result['date']}",
        "",
        f"- {result['sequences']:,} distinct sequences of {settings['table']}, embedded by {settings['model']}; "
        f"{result['queries']:,} queries; hits of the query's own cluster do not count.",
        f"- `IVF{settings['lists']},RaBitQ,Refine(SQfp16)`; recall@10 is against exact search, {K_FACTOR:g} candidates "
        f"are refined for each neighbour; ms for one such query of a batch. Families are looked for among {LISTED} "
        f"hits, for each of which {LISTED_K_FACTOR:g} candidates are refined.",
        f"- {machine.words(result['machine'])}.",
        "",
        "| transform | lists visited | recall@10 | family top-1 | family in 10 | ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lists, spent = (row["nprobe"], f"{row['ms']:.3f}") if row["nprobe"] else ("exact search", "")
        lines.append(
            f"| {row['transform']} | {lists} | {row['recall']:.4f} | {row['top1']:.3f} ± {row['top1_error']:.3f} | "
            f"{row['any10']:.3f} | {spent} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
