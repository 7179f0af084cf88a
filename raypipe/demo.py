"""The whole line on what ships with raypipe: FASTA to annotated hits, in a minute or two, with the times."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from index.annotations import annotate
from index.build import build_index
from index.store import Store
from raypipe.atlas import Atlas
from raypipe.cli.progress import RunProgress, say
from raypipe.ingest import ingest
from raypipe.pipeline import embed
from raypipe.reports import ingest_summary, run_summary
from raypipe.settings import EmbedSettings

DATA = Path(__file__).resolve().parent / "demo_data"
FAMILIES = ("tRNA", "RNaseP_bact", "Vault")
FOLDED = ("tRNA", "5S_rRNA")
CENSUS = """\
SELECT family, rna_type AS type, count(*) AS sequences, round(avg(s.length))::INT AS mean_nt,
       round(100 * avg(len(regexp_replace(sequence, '[^GC]', '', 'g')) / s.length))::INT AS gc_percent
FROM families JOIN sequences AS s USING (seq_id)
GROUP BY ALL ORDER BY sequences DESC"""
Answer = TypeVar("Answer")


def run_demo(folder: Path) -> None:
    """Make the demo atlas in `folder` (or find it made) and print what it answers."""
    console = Console(width=max(Console().width, 110), highlight=False)
    times: list[tuple[str, float]] = []

    def step(name: str, work: Callable[[], Answer]) -> Answer:
        begin = time.perf_counter()
        answer = work()
        times.append((name, time.perf_counter() - begin))
        return answer

    corpus, table = str(DATA / "demo.fasta.gz"), DATA / "annotations.tsv.gz"
    store = Store.open_or_create(folder)

    def make_index() -> Any:
        with store.lock():
            return build_index(store, kind="flat")

    def add_annotations() -> Any:
        with store.lock():
            return annotate(store, {"families": table})

    def read() -> Any:
        with store.lock():
            return ingest(store, corpus)

    console.print(f"[bold]raypipe demo[/bold]: real non-coding RNA from FASTA to annotated hits, in {folder}\n")
    say(ingest_summary("demo.fasta.gz", step("ingest", read)))
    with closing(RunProgress()) as progress:
        report = step("embed", lambda: embed(store, EmbedSettings(model="nano"), progress))
    say(run_summary(store, report))
    info = step("index", make_index)
    say(f"index: {info.type}, {info.rows:,} vectors")
    tables = step("annotate", add_annotations)
    say(f"annotations: {tables[0].matched_rows:,} rows for {tables[0].matched_sequences:,} sequences")

    atlas = Atlas(folder)
    examples = atlas.sql(
        "SELECT family, min(id) AS id FROM families WHERE family IN (SELECT unnest($names)) GROUP BY family "
        "ORDER BY list_position($names, family)",
        {"names": list(FAMILIES)},
    ).to_pylist()
    queries = [row["sequence"] for row in atlas.get([row["id"] for row in examples]).to_pylist()]
    names = [f"a {row['family']}" for row in examples]
    columns = ["query", "rank", "id", "score", "length", "family", "rna_type"]
    hits = step("search", lambda: atlas.search(queries, names=names, k=4, columns=columns).to_arrow())
    console.print()
    show(console, "Three RNAs of the corpus as queries, and their nearest sequences (score: cosine)", hits)
    census = step("sql", lambda: atlas.sql(CENSUS).to_arrow())
    show(console, "SQL: what the corpus holds, by family", census)
    same, chance = family_agreement(atlas)
    console.print(
        f"The nearest other sequence is of the query's own family for {same:.0%} of all sequences "
        f"(by chance: {chance:.0%}).\n"
    )
    step("fold", lambda: show_structures(console, atlas))
    total = sum(seconds for _, seconds in times)
    console.print(
        "Times: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times) + f"; in all {total:.1f} s"
    )
    console.print(
        f"Go on:  {command_name()} search {folder} GGCCGGUAGUCUAGCGGAAGGAUGCCC -k 5 --where \"rna_type = 'tRNA'\"",
        soft_wrap=True,
    )


def command_name() -> str:
    """How to call raypipe from here: by its name where the shell finds it, else by its path."""
    script = Path(sys.argv[0])
    return "raypipe" if shutil.which("raypipe") or script.name != "raypipe" else os.path.relpath(script)


def show_structures(console: Console, atlas: Atlas) -> None:
    """Print what the structure head of the model that ships says of some sequences, under what their alignment says."""
    from model import load
    from model.predictions import ContactPrediction
    from model.structure import parse_dot_bracket
    from model.structure_metrics import compare_pairs

    rows = atlas.sql(
        "SELECT family, id, sequence, structure FROM families JOIN sequences USING (seq_id) "
        "WHERE family IN (SELECT unnest($names)) QUALIFY row_number() OVER (PARTITION BY family ORDER BY id) = 1 "
        "ORDER BY list_position($names, family)",
        {"names": list(FOLDED)},
    ).to_pylist()
    predicted = load("nano").predict([row["sequence"] for row in rows], "structure")["structure"]
    console.print(
        "[bold]Structures[/bold]: what the head of nano predicts (nano), under that of the family's alignment"
    )
    for row, found in zip(rows, predicted, strict=True):
        assert isinstance(found, ContactPrediction)
        assert found.structure is not None
        counts = compare_pairs(found.structure.pairs, parse_dot_bracket(row["structure"]), len(row["sequence"]))
        console.print(f"{row['id']}, {row['family']}: F1 of base pairs {counts.scores().f1:.2f}")
        for name, line in (("", row["sequence"]), ("family", row["structure"]), ("nano", found.structure.dot_bracket)):
            console.print(f"  {name:<7} {line}", soft_wrap=True, markup=False)
    console.print()


def family_agreement(atlas: Atlas) -> tuple[float, float]:
    """How often a sequence's nearest other sequence is of its family, and how often two random ones would be."""
    known = atlas.sql("SELECT seq_id, min(family) AS family FROM families GROUP BY seq_id ORDER BY seq_id").to_arrow()
    family = dict(zip(known["seq_id"].to_pylist(), known["family"].to_pylist(), strict=True))
    seq_ids = np.array(list(family), dtype=np.int64)
    found, _ = atlas.searcher.search(atlas.searcher.vectors(seq_ids), 2)
    # A sequence is usually its own first hit; among equal vectors it may stand second.
    nearest = np.where(found[:, 0] == seq_ids, found[:, 1], found[:, 0])
    same = np.mean([family[int(a)] == family.get(int(b)) for a, b in zip(seq_ids, nearest, strict=True)])
    _, counts = np.unique(list(family.values()), return_counts=True)
    return float(same), float(np.sum((counts / counts.sum()) ** 2))


def show(console: Console, title: str, table: pa.Table) -> None:
    """Print `table` under a line that says what it is."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        drawn.add_column(field.name, justify="right" if number else "left")
    previous = None
    for row in table.to_pylist():
        if previous is not None and "query" in row and row["query"] != previous:
            drawn.add_section()
        previous = row.get("query")
        drawn.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(drawn)
    console.print()
