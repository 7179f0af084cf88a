"""Annotations at scale: `raypipe annotate` of tens of millions of rows in little memory, and hits joined to them.

    python -m tests.benchmarks.annotations [--rows 20000000] [--sequences 2000000] [--memory-limit 2GB] [--folder DIR]

The file has the shape of RNAcentral's id_mapping.tsv: no header, six columns, the rows in random order, ten of a
sequence on average; every eleventh names a sequence that the atlas has not, and one of 100,000 has a column too few.
The atlas is made around it, with vectors of few values, since it is not the search that is measured. Peak memory is as
in `tests.benchmarks.ingest`, the disk the most that the atlas's folder took meanwhile.

Then questions with 10 hits each, one after another, other ones every time, none by a sequence: no encoder is in them.
What is asked is at the rows of the table. "Search alone" is the time of the index in the others, which depends on it.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from index import hits
from index.annotation_tables import live_database
from index.build import build_index
from raypipe.atlas import Atlas
from tests.benchmarks import machine, options, search_atlas
from tests.benchmarks.ingest import resident_bytes

NAME = b"URS%010X_9606"
DATABASES = (b"ENA", b"RefSeq", b"Rfam", b"SILVA", b"Ensembl", b"PDBe", b"GtRNAdb", b"miRBase")
TYPES = (b"rRNA", b"tRNA", b"lncRNA", b"miRNA", b"snoRNA", b"snRNA", b"misc_RNA", b"piRNA")
CHUNK = 500_000
BAD_EVERY = 100_000
UNKNOWN = 1.1  # times as many sequences are named as there are
DIMENSION, LATENT = 32, 6
HITS = 10
QUESTIONS = 400
FEW = 30  # of the slow ones


def write_mapping(path: Path, rows: int, sequences: int, seed: int) -> None:
    """A file of the shape of RNAcentral's id_mapping.tsv."""
    dice = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            numbers = dice.integers(0, int(UNKNOWN * sequences), count).tolist()
            kinds = dice.integers(0, 8, (2, count)).tolist()
            taxa = dice.integers(1, 3_000_000, count).tolist()
            lines = [
                b"URS%010X\t%s\tGU%06d.%d:1..%d:rRNA\t%d\t%s\t\n"
                % (number, DATABASES[database], taxid % 999_983, database, taxid % 4096, taxid, TYPES[type_])
                for number, database, type_, taxid in zip(numbers, *kinds, taxa, strict=True)
            ]
            for place in range(BAD_EVERY // 2, count, BAD_EVERY):
                lines[place] = lines[place].rsplit(b"\t", 2)[0] + b"\n"
            file.writelines(lines)


def write_vectors(path: Path, count: int, seed: int) -> None:
    """Vectors of few true dimensions, as those of sequences are."""
    dice = np.random.default_rng(seed)
    axes = dice.standard_normal((LATENT, DIMENSION)).astype(np.float32)
    made = np.lib.format.open_memmap(path, "w+", np.float16, (count, DIMENSION))
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        made[start : start + size] = dice.standard_normal((size, LATENT)).astype(np.float32) @ axes
    made.flush()


def annotate(atlas: Path, file: Path, memory_limit: str) -> dict[str, Any]:
    """One `raypipe annotate` from the start of the process to its end."""
    command = [*search_atlas.RAYPIPE, "annotate", str(atlas), f"mapping={file}", "--memory-limit", memory_limit]
    before = _bytes(atlas)
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stderr=said, text=True) as process:
        memory = disk = 0
        while process.poll() is None:
            memory, disk = max(memory, resident_bytes(process.pid)), max(disk, _bytes(atlas) - before)
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
        said.seek(0)
        words = said.read().strip()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{words}")
    folder = atlas / "annotations"
    return {
        "seconds": seconds,
        "peak_mib": memory / 2**20,
        "peak_disk_mib": disk / 2**20,
        "file_mib": file.stat().st_size / 2**20,
        "database_mib": sum(each.stat().st_size for each in folder.glob("*.duckdb")) / 2**20,
        "mapped_mib": _bytes(folder) / 2**20 - sum(each.stat().st_size for each in folder.glob("*.duckdb")) / 2**20,
        "said": words.replace(str(file), file.name),
    }


def _bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def ask(atlas: Path, count: int, seed: int) -> dict[str, dict[str, float]]:
    """Milliseconds of every kind of question."""
    dice = np.random.default_rng(seed)
    opened = Atlas(atlas)
    searcher, store = opened.searcher, opened.store
    database = live_database(store)
    plain = duckdb.connect(":memory:")
    plain.execute(f"ATTACH '{database}' AS notes (READ_ONLY)")
    at_random = [np.sort(dice.permutation(count)[:HITS])[None] for _ in range(QUESTIONS)]
    scores = np.zeros((1, HITS), np.float32)
    ids = [(NAME % number).decode() for number in dice.integers(0, count, QUESTIONS).tolist()]
    vectors = searcher.vectors(dice.integers(0, count, QUESTIONS))
    joined = "JOIN {} USING (seq_id)"

    def listed(seq_ids: np.ndarray) -> str:
        return ", ".join(f"({seq_id})" for seq_id in seq_ids[0].tolist())

    questions: dict[str, tuple[int, Callable[[int], Any]]] = {
        "hits with the first row of each": (
            QUESTIONS,
            lambda n: hits.hit_table(store, searcher, ["q"], at_random[n], scores),
        ),
        "hits with all rows (--all-annotations)": (
            QUESTIONS,
            lambda n: hits.hit_table(store, searcher, ["q"], at_random[n], scores, all_annotations=True),
        ),
        "hits with a row per record (--expand-records)": (
            FEW,
            lambda n: hits.hit_table(store, searcher, ["q"], at_random[n], scores, expand_records=True),
        ),
        "DuckDB alone, one open connection: 10 numbers JOIN the table": (
            QUESTIONS,
            lambda n: plain.execute(
                f"SELECT * FROM (VALUES {listed(at_random[n])}) h(seq_id) {joined.format('notes.mapping')}"
            ).fetchall(),
        ),
        "SQL: 10 numbers JOIN the table": (
            QUESTIONS,
            lambda n: opened.sql(
                f"SELECT * FROM (VALUES {listed(at_random[n])}) h(seq_id) {joined.format('mapping')}"
            ).to_arrow(),
        ),
        "SQL: neighbors('id', k := 10) JOIN the table": (
            QUESTIONS,
            lambda n: opened.sql(
                f"SELECT * FROM neighbors('{ids[n]}', k := {HITS}) {joined.format('mapping')}"
            ).to_arrow(),
        ),
        "search(vectors=..., k=10) with the first row of each": (
            QUESTIONS,
            lambda n: opened.search(vectors=vectors[n], k=HITS).to_arrow(),
        ),
        "search(ids=..., k=10) with the first row of each": (
            QUESTIONS,
            lambda n: opened.search(ids=[ids[n]], k=HITS).to_arrow(),
        ),
        "search alone": (QUESTIONS, lambda n: searcher.find(vectors[n : n + 1], HITS)),
        "an id looked up": (QUESTIONS, lambda n: hits.resolve_ids(store, [ids[n]], searcher.catalog)),
        "a stored vector read": (QUESTIONS, lambda n: searcher.vectors(at_random[n][0, :1])),
    }
    return {name: _times(times, question) for name, (times, question) in questions.items()}


def _times(count: int, question: Callable[[int], Any]) -> dict[str, float]:
    question(0)
    spent, cpu = [], time.process_time()
    for number in range(count):
        begin = time.perf_counter()
        question(number)
        spent.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(spent, (50, 99)).tolist()
    return {"questions": count, "p50_ms": p50, "p99_ms": p99, "cpu_ms": 1e3 * (time.process_time() - cpu) / count}


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    about, made = result["machine"], result["annotate"]
    lines = [
        f"# Annotations at scale, {result['date']}",
        "",
        f"{machine.words(about)}, load {about['load_average']}. `python -m tests.benchmarks.annotations`: "
        f"{result['rows']:,} rows of the shape of RNAcentral's id_mapping.tsv, onto {result['sequences']:,} sequences.",
        "",
        f"`raypipe annotate --memory-limit {result['memory_limit']}`: {made['seconds']:,.0f} s, "
        f"{result['rows'] / made['seconds']:,.0f} rows/s, peak memory {made['peak_mib']:,.0f} MiB, room on the disk "
        f"meanwhile {made['peak_disk_mib']:,.0f} MiB. The file has {made['file_mib']:,.0f} MiB, the database "
        f"{made['database_mib']:,.0f} MiB, the mapped first rows {made['mapped_mib']:,.0f} MiB. It says:",
        "",
        f"    {made['said']}",
        "",
        "Questions with 10 hits, milliseconds:",
        "",
        "| question | how many | p50 | p99 | CPU each |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {spent['questions']} | {spent['p50_ms']:.3f} | {spent['p99_ms']:.3f} | {spent['cpu_ms']:.3f} |"
        for name, spent in result["questions"].items()
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    made = options.parser(__doc__)
    made.add_argument("--rows", type=int, default=20_000_000)
    made.add_argument("--sequences", type=int, default=2_000_000)
    made.add_argument("--memory-limit", default="2GB", help="of DuckDB")
    made.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    told = made.parse_args(arguments)
    before = machine.describe()
    with tempfile.TemporaryDirectory(dir=told.folder) as home:
        atlas, file, vectors = Path(home) / "atlas", Path(home) / "id_mapping.tsv", Path(home) / "vectors.npy"
        write_vectors(vectors, told.sequences, told.seed)
        store = search_atlas.make(atlas, vectors, told.sequences, name=NAME)
        with store.lock():
            build_index(store, kind="IVF1024,Flat")
        print("atlas made", file=sys.stderr, flush=True)
        write_mapping(file, told.rows, told.sequences, told.seed)
        annotated = annotate(atlas, file, told.memory_limit)
        print(json.dumps(annotated), file=sys.stderr, flush=True)
        file.unlink()
        questions = ask(atlas, told.sequences, told.seed)
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": before,
        **{name: getattr(told, name) for name in ("rows", "sequences", "memory_limit")},
        "annotate": annotated,
        "questions": questions,
    }
    options.write(told.results, "annotations", result, page(result))


if __name__ == "__main__":
    main()
