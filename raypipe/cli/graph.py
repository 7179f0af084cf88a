"""Verbs of the graph of nearest neighbours: neighbors makes it, cluster finds the families in it."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter, validators

from index.store import Store
from raypipe.answer_files import check_output
from raypipe.cli.asking import Format, Header, OutputFile
from raypipe.cli.making import AtlasPath
from raypipe.cli.progress import LINE_EVERY_S, say
from raypipe.wording import duration

_COSINE = validators.Number(gte=-1, lte=1)
_COUNT = validators.Number(gte=1)


def neighbors(
    atlas: AtlasPath,
    *,
    k: Annotated[
        int, Parameter(name=["-k", "--k"], help="Neighbours of each sequence, without itself.", validator=_COUNT)
    ] = 10,
    min_score: Annotated[
        float | None, Parameter(help="Leave out neighbours of a lower score.", validator=_COSINE)
    ] = None,
    batch: Annotated[
        int | None,
        Parameter(
            help="Sequences of one file, the unit of work and of loss at a kill. By default as begun, else 16,384.",
            validator=_COUNT,
        ),
    ] = None,
    replace: Annotated[
        bool, Parameter(negative="", help="Make it in the place of one with other options, which is removed.")
    ] = False,
) -> None:
    """Write the k nearest neighbours of every sequence of an atlas, as Parquet; goes on where a killed run stopped.

    They are found by the live index, whose scores they carry. In SQL they are the table neighbors.
    """
    from index.graph_build import make_graph, plan_graph
    from index.search import Searcher

    store = Store.open(atlas)
    with store.lock():
        searcher = Searcher.open(store)
        plan = plan_graph(store, searcher, k=k, min_score=min_score, batch=batch, replace=replace)
        what = f"{plan.info.words} of each sequence by index {searcher.info.version} ({searcher.info.type})"
        blocks = len(plan.info.blocks)
        if plan.stale:
            say(f"the graph that stands there is stale, and made anew: {plan.stale.partition(';')[0]}")
        if not plan.todo:
            say(f"neighbors: up to date ({what}, {blocks:,} blocks)")
            return
        before = f", {blocks - len(plan.todo):,} finished before" if len(plan.todo) < blocks else ""
        again = f" ({plan.outdated:,} of them for sequences that were removed)" if plan.outdated else ""
        say(f"{what}: {len(plan.todo):,} blocks to make{again}{before}")
        begin = said = time.monotonic()
        sequences = edges = 0
        for done, made in enumerate(make_graph(store, searcher, plan), 1):
            sequences, edges, now = sequences + made.sequences, edges + made.edges, time.monotonic()
            if now - said >= LINE_EVERY_S:
                said = now
                left = duration((now - begin) / done * (len(plan.todo) - done))
                say(f"{done:,} of {len(plan.todo):,} blocks, {sequences / (now - begin):,.0f} sequences/s, {left} left")
    seconds = time.monotonic() - begin
    say(
        f"neighbors: {edges:,} edges of {sequences:,} sequences in {seconds:.1f} s "
        f"({sequences / max(seconds, 1e-9):,.0f} sequences/s); complete: {blocks:,} blocks"
    )


def cluster(
    atlas: AtlasPath,
    *,
    min_score: Annotated[
        float, Parameter(help="Score from which on two neighbours are of one family.", validator=_COSINE)
    ],
    format: Format = "tsv",
    header: Header = True,
    output: OutputFile = None,
) -> None:
    """Write the families of an atlas: what hangs together in the graph of neighbours by edges of a score.

    A row for each sequence: id (of its first record), seq_id, cluster (the lowest seq_id of its family) and size, the
    largest families first.
    """
    from index.families import family_table, find_families
    from raypipe.formats import write_table

    check_output(output, [])
    store = Store.open(atlas)
    found = find_families(store, min_score)
    write_table(family_table(store, found), output, format, header)
    say(
        f"{found.count:,} clusters of 2 sequences or more, the largest of {found.largest:,}; {found.singletons:,} "
        f"sequences are alone"
    )
    if found.full:
        say(
            f"note: all neighbours of {found.full:,} sequences score {min_score} or more, and they may have others: "
            f"with a larger -k of raypipe neighbors clusters may join"
        )
