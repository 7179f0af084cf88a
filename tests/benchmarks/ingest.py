"""Ingest at scale: records/s and peak memory of `raypipe ingest`, and how both grow.

    python -m tests.benchmarks.ingest [--records 2000000,20000000] [--folder /a/disk/with/space]

The sequences are random, as many and as long as those of a database of ncRNA (20 to 600 nt, mean 170), a tenth of them
again under another id, in a random place. Every size is made as FASTA, ingested by the command line into a new atlas,
and removed again; the first also as gzip, and as several files at once. Peak memory is that of the process and of
everything that it starts, resident sets added up as the kernel counts them every 0.2 s; DuckDB may hold 2 GB of it
(`raypipe.ingest.MEMORY_LIMIT`). A bare line count of the same file is the floor.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import machine, options

RAYPIPE = [str(Path(sys.executable).with_name("raypipe"))]
DUPLICATES = 0.1
CHUNK = 200_000
LETTERS = np.frombuffer(b"ACGU", np.uint8)
PARTS = 4


def write_fasta(path: Path, records: int, seed: int) -> None:
    """Random records; a share of DUPLICATES repeats sequences of the same file under other ids."""
    dice = np.random.default_rng(seed)
    number = 0
    with path.open("wb") as file:
        while number < records:
            count = min(CHUNK, records - number)
            fresh = count - int(DUPLICATES * count)
            lengths = np.clip(dice.lognormal(4.95, 0.55, fresh), 20, 600).astype(np.int64)
            letters = LETTERS[dice.integers(0, 4, int(lengths.sum()), dtype=np.uint8)].tobytes()
            ends = np.cumsum(lengths).tolist()
            made = [letters[end - size : end] for end, size in zip(ends, lengths.tolist(), strict=True)]
            again = [made[place] for place in dice.integers(0, fresh, count - fresh)]
            lines = [b">URS%010X_9606 made ncRNA\n%s\n" % (number + k, text) for k, text in enumerate(made + again)]
            file.writelines(lines[place] for place in dice.permutation(count))
            number += count


def resident_bytes(root: int) -> int:
    """Resident memory of a process and of all that descend from it; shared pages count for each."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                sizes[int(folder.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
                children.setdefault(int(fields[1]), []).append(int(folder.name))
            except OSError:
                continue
    total, todo = 0, [root]
    while todo:
        one = todo.pop()
        total += sizes.get(one, 0)
        todo += children.get(one, [])
    return total


def measure(inputs: Sequence[Path], atlas: Path) -> dict[str, Any]:
    """One `raypipe ingest` from the start of the process to its end."""
    begin = time.perf_counter()
    command = [*RAYPIPE, "ingest", *map(str, inputs), "-o", str(atlas)]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stderr=said, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said.read()}")
    return {
        "seconds": seconds,
        "peak_mib": peak / 2**20,
        "atlas_mib": sum(file.stat().st_size for file in atlas.rglob("*") if file.is_file()) / 2**20,
    }


def count_lines(path: Path) -> float:
    """Seconds to read a file and count its line ends."""
    begin = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 22):
            block.count(b"\n")
    return time.perf_counter() - begin


def one_size(records: int, home: Path, seed: int, variants: bool) -> list[dict[str, Any]]:
    """All measurements of one number of records."""
    fasta = home / "made.fasta"
    write_fasta(fasta, records, seed)
    inputs: dict[str, list[Path]] = {"one FASTA": [fasta]}
    if variants:
        packed = home / "made.fasta.gz"
        with fasta.open("rb") as source, gzip.open(packed, "wb", compresslevel=4) as target:
            shutil.copyfileobj(source, target, 1 << 22)
        inputs["one FASTA.gz"] = [packed]
        parts = [home / f"part{k}.fasta" for k in range(PARTS)]
        for k, part in enumerate(parts):
            write_fasta(part, records // PARTS, seed + 1 + k)
        inputs[f"{PARTS} FASTA files"] = parts
    rows = []
    for name, files in inputs.items():
        atlas = home / "atlas"
        row = {"records": records, "input": name, "input_mib": sum(file.stat().st_size for file in files) / 2**20}
        row |= measure(files, atlas)
        row["records_per_second"] = records / row["seconds"]
        row["line_count_seconds"] = sum(count_lines(file) for file in files)
        shutil.rmtree(atlas)
        print(json.dumps(row), flush=True)
        rows.append(row)
    for files in inputs.values():
        for file in files:
            file.unlink()
    return rows


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = result["machine"]
    lines = [
        f"# raypipe ingest, {result['date']}",
        "",
        f"{machine.words(about)}, load {about['load_average']}. "
        "`python -m tests.benchmarks.ingest`. A tenth of the sequences are duplicates.",
        "",
        "| records | input | MiB | seconds | records/s | peak memory, MiB | atlas, MiB | counting its lines, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['records']:,} | {row['input']} | {row['input_mib']:,.0f} | {row['seconds']:,.1f} | "
            f"{row['records_per_second']:,.0f} | {row['peak_mib']:,.0f} | {row['atlas_mib']:,.0f} | "
            f"{row['line_count_seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    made = options.parser(__doc__)
    made.add_argument("--records", default="2000000,20000000", help="sizes, separated by commas")
    made.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    told = made.parse_args(arguments)
    sizes = [int(text) for text in told.records.split(",")]
    rows: list[dict[str, Any]] = []
    before = machine.describe()
    with tempfile.TemporaryDirectory(dir=told.folder) as home:
        for place, records in enumerate(sizes):
            rows += one_size(records, Path(home), told.seed, variants=place == 0)
    result = {"date": datetime.date.today().isoformat(), "machine": before, "rows": rows}
    options.write(told.results, "ingest", result, page(result))


if __name__ == "__main__":
    main()
