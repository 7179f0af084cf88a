"""`raypipe eval retrieval`: what finds a sequence's family leaving its cluster out, its clan leaving its family out.

Shapes: n distinct sequences, Q queries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from index.codes import Coded, code_bytes
from index.retrieval import Found, Question, measure, questions_of, rank_all, rank_listed
from index.store import Pooling
from index.transforms import fit
from index.vectors import unit_rows
from raypipe.checkpoints import Checkpoint, find_checkpoint
from raypipe.errors import InputError, UsageError
from raypipe.evaluation.embedding import check_layers
from raypipe.evaluation.kmers import KmerProfiles
from raypipe.evaluation.labelled import Labelled, read_labelled
from raypipe.evaluation.reports import Column, Report
from raypipe.evaluation.settings import RetrievalSettings
from raypipe.evaluation.tools import TOOLS, search
from raypipe.evaluation.vector_cache import vectors_of
from raypipe.splits import FAMILY_SHARES

Say = Callable[[str], None]
KMER = "kmer"
COLUMNS = [
    Column("method", "method"),
    Column("dims", "dims", "d"),
    Column("family_top1", "family top-1", ".3f"),
    Column("family_top1_error", "±", ".3f"),
    Column("family_any10", "any 10", ".3f"),
    Column("family_mean_average_precision", "mAP", ".3f"),
    Column("family_macro_top1", "macro top-1", ".3f"),
    Column("clan_top1", "clan top-1", ".3f"),
    Column("clan_top1_error", "±", ".3f"),
    Column("clan_any10", "any 10", ".3f"),
    Column("clan_mean_average_precision", "mAP", ".3f"),
    Column("clan_macro_top1", "macro top-1", ".3f"),
    Column("prepare_seconds", "prepare s", ",.0f"),
    Column("search_seconds", "search s", ",.0f"),
]
PROTOCOL = (
    "family: hits of the query's own cluster do not count; right is another sequence of its family",
    "clan: hits of the query's own family do not count; right is a sequence of another family of its clan",
    "top-1, any 10: share of queries whose first hit, any of whose first 10 hits is right; mAP: mean over queries of "
    "(1/R) sum i/rank_i over all R right ones, in the whole ranking; what a tool does not list adds 0; "
    "macro: mean over families (clans); ±: standard error, families (clans) drawn, not queries",
)


@dataclass(frozen=True)
class Asked:
    """The questions, each with its queries."""

    questions: dict[str, tuple[Question, np.ndarray]]

    @property
    def queries(self) -> np.ndarray:
        """All rows that are asked for, ascending."""
        return np.unique(np.concatenate([queries for _, queries in self.questions.values()]))


def evaluate_retrieval(path: str, settings: RetrievalSettings, say: Say) -> Report:
    """Compare models and baselines on one table.

    Args:
        path: Parquet, CSV or TSV.
        settings: which methods, on which queries.
        say: takes one line for the person who waits.

    Raises:
        RaypipeError, StoreError, ModelError: the table, a model or a tool cannot be used; the message says which.
    """
    checkpoints = [find_checkpoint(name) for name in settings.models if name != "none"]
    for checkpoint in checkpoints:
        check_layers(checkpoint, settings.layers)
    baselines, skipped = choose_baselines(settings.baselines)
    if not checkpoints and not baselines:
        raise UsageError("nothing to compare: name --models or --baselines")
    labelled = read_labelled(path, settings)
    asked, unanswerable = choose_queries(path, labelled, settings)
    say(
        f"{path}: {len(labelled):,} distinct sequences; queries: "
        + ", ".join(f"{len(queries):,} of {name}" for name, (_, queries) in asked.questions.items())
    )
    rows = []
    for row in _methods(labelled, asked, checkpoints, baselines, settings, say):
        rows.append(row)
        say(f"{row['method']}: family top-1 {row['family_top1']:.3f} ({row['search_seconds']:,.0f} s)")
    untrained = [
        f"{checkpoint.name} is untrained (random weights)" for checkpoint in checkpoints if not checkpoint.trained
    ]
    notes = [*(f"{row['method']}: {row['how']}" for row in rows if row.get("how")), *skipped, *untrained]
    about = {
        "evaluation": "retrieval",
        "input": path,
        "protocol": PROTOCOL,
        "split": {"part": settings.split, "shares": dict(FAMILY_SHARES), "key": "clan, else family"},
        "counts": labelled.counts,
        "queries": {name: len(queries) for name, (_, queries) in asked.questions.items()},
        "queries_without_an_answer": unanswerable,
        "skipped": skipped,
    }
    return Report(about, [*_in_words(path, labelled, asked, unanswerable, settings), *PROTOCOL], COLUMNS, rows, notes)


def choose_baselines(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Baselines to run, and why others are not.

    Raises:
        UsageError: one that was named is not installed.
    """
    if names == ["none"]:
        return [], []
    if names != ["auto"]:
        for name in names:
            if name in TOOLS and (why := TOOLS[name].missing()) is not None:
                raise UsageError(f"--baselines {name}: {why}")
        return list(names), []
    absent = {name: why for name, tool in TOOLS.items() if (why := tool.missing()) is not None}
    found = [KMER, *(name for name in TOOLS if name not in absent)]
    return found, [f"{TOOLS[name].title}: skipped: {why}" for name, why in absent.items()]


def choose_queries(path: str, labelled: Labelled, settings: RetrievalSettings) -> tuple[Asked, dict[str, int]]:
    """The queries of each question that has any, and how many sequences of the split have no answer.

    Raises:
        InputError: no family can be asked for.
    """
    inside = np.ones(len(labelled), bool) if settings.split == "all" else labelled.parts == settings.split
    asked, unanswerable = {}, {}
    for name, question in questions_of(labelled.family, labelled.clan, labelled.cluster).items():
        answerable = question.answerable()
        if name == "family" and not answerable.any():
            raise InputError(
                f"{path}: no family has sequences of two clusters, so leaving clusters out leaves nothing to find; "
                f"check --family-column {settings.family_column} and --cluster-column {settings.cluster_column}"
            )
        # Without a clan there is no question.
        belongs = inside & (question.group >= 0)
        queries = np.flatnonzero(answerable & inside)
        unanswerable[name] = int(belongs.sum()) - len(queries)
        if len(queries):
            # Rows stand in the order of their md5: the first ones are a fair sample, the same one every time.
            asked[name] = question, queries[: settings.sample]
    if "family" not in asked:
        raise InputError(
            f"{path}: no family of the part {settings.split!r} has sequences of two clusters; ask for another part "
            "with --split, or for --split all"
        )
    return Asked(asked), unanswerable


def _methods(
    labelled: Labelled,
    asked: Asked,
    checkpoints: Sequence[Checkpoint],
    baselines: Sequence[str],
    settings: RetrievalSettings,
    say: Say,
) -> Iterator[dict[str, Any]]:
    """A row for each method, as it is done."""
    for checkpoint in checkpoints:
        yield from _of_model(checkpoint, labelled, asked, settings, say)
    for name in baselines:
        begin = time.monotonic()
        if name == KMER:
            profiles = KmerProfiles(labelled.sequences, settings.kmer)
            prepared = time.monotonic() - begin
            begin = time.monotonic()
            found = rank_all(profiles.scores, asked.questions)
            what = {"method": f"{settings.kmer}-mers", "dims": 4**settings.kmer, "how": "cosine of counts"}
        else:
            tool = TOOLS[name]
            threads = settings.threads or len(os.sched_getaffinity(0))
            hits = search(tool, labelled.sequences, asked.queries, threads, say)
            prepared = 0.0
            found = {name: rank_listed(hits, *asked.questions[name]) for name in asked.questions}
            what = {"method": tool.title, "how": f"{tool.flags}, hits by bit score"}
        yield {**what, **_measures(asked, found), **_seconds(prepared, begin)}


def _of_model(
    checkpoint: Checkpoint, labelled: Labelled, asked: Asked, settings: RetrievalSettings, say: Say
) -> Iterator[dict[str, Any]]:
    """A row for each pooling, layer, transform and codes; the sequences are read once."""
    which: list[tuple[Pooling, int]] = [
        (cast(Pooling, pooling), layer) for layer in settings.layers for pooling in settings.pooling
    ]
    for codes in settings.codes:
        if codes != "none":
            code_bytes(codes, checkpoint.config.hidden_size)  # an unknown name is told before minutes of work
    begin = time.monotonic()
    sets = vectors_of(checkpoint, labelled.sequences, which, settings, say)
    embedded = time.monotonic() - begin
    names = np.array(labelled.ids)
    for pooling, layer in which:
        raw = unit_rows(sets.pop(0), names, f"{checkpoint.name}, the vector of")
        done = set()
        for kind in settings.transform:
            begin = time.monotonic()
            transform = fit(raw, kind, fingerprint=checkpoint.fingerprint)
            # auto may come out as one that was named besides.
            if transform.kind in done:
                continue
            done.add(transform.kind)
            vectors = transform.apply(raw, names, f"{checkpoint.name}, the vector of")
            where = "last" if layer in (-1, checkpoint.config.num_layers) else str(layer)
            for codes in settings.codes:
                coded = None if codes == "none" else Coded(vectors, codes)
                found = rank_all(partial(_scores, vectors, coded), asked.questions)
                yield {
                    "method": ", ".join(
                        [checkpoint.name, pooling, f"layer {where}", transform.kind, *([codes] if coded else [])]
                    ),
                    "dims": transform.out_dimension,
                    **_measures(asked, found),
                    **_seconds(embedded, begin),
                    "model": checkpoint.asked,
                    "fingerprint": checkpoint.fingerprint,
                    "trained": checkpoint.trained,
                    "pooling": pooling,
                    "layer": layer,
                    "transform": transform.kind,
                    "codes": codes,
                    "bytes_per_vector": 4 * transform.out_dimension if coded is None else coded.bytes,
                }
                begin = time.monotonic()


def _scores(vectors: np.ndarray, coded: Coded | None, rows: np.ndarray) -> np.ndarray:
    return vectors[rows] @ vectors.T if coded is None else coded.scores(vectors[rows])


def _measures(asked: Asked, found: dict[str, Found]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, (question, queries) in asked.questions.items():
        values.update({f"{name}_{key}": v for key, v in asdict(measure(found[name], question.group[queries])).items()})
    return values


def _seconds(prepared: float, begin: float) -> dict[str, float]:
    return {"prepare_seconds": round(prepared, 3), "search_seconds": round(time.monotonic() - begin, 3)}


def _in_words(
    path: str, labelled: Labelled, asked: Asked, unanswerable: dict[str, int], settings: RetrievalSettings
) -> list[str]:
    counts = labelled.counts
    lines = [
        f"{path}: {counts['rows']:,} rows, {len(labelled):,} distinct sequences of {counts['families']:,} families, "
        f"{counts['clans']:,} clans and {counts['clusters']:,} clusters, all of them searched"
    ]
    for key, words in (
        ("repeated_rows", "rows repeat a sequence and are left out"),
        ("rows_without_family", "rows have no family and are left out"),
        ("sequences_of_several_families", "sequences stand in several families; the first one of the table is taken"),
        ("sequences_without_cluster", "sequences have no cluster, and are each one of their own"),
    ):
        if counts[key]:
            lines.append(f"  {counts[key]:,} {words}")
    held_out = {
        "test": "held out: they teach no model that raypipe trains on families",
        "valid": "on which raypipe's training looks at itself",
        "train": "which models that raypipe trains on families may know",
    }
    of = (
        f"of the part {settings.split!r} ({held_out[settings.split]})" if settings.split != "all" else "of all families"
    )
    for name, (question, queries) in asked.questions.items():
        lines.append(
            f"queries for {name}: {len(queries):,} sequences of {len(np.unique(question.group[queries])):,} "
            f"{'families' if name == 'family' else 'clans'} {of}; {unanswerable[name]:,} have nothing to be found"
        )
    if "clan" not in asked.questions:
        lines.append(f"queries for clan: none, no clan has two families {of}")
    return lines
