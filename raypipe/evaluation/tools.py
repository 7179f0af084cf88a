"""Search tools that compare letters, run as they are installed: BLASTN and MMseqs2."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from index.retrieval import ranking
from raypipe.errors import RaypipeError, UsageError

# More than the largest family of Rfam's seeds: hits that do not count must not push out those that do.
MOST_HITS = 10_000
SAY_EVERY_S = 30.0
_BLOCK_BYTES = 8 << 20
_TO_DNA = str.maketrans("U", "T")

# Far beyond what is significant: a ranking shall have something to rank. Defaults would list the near ones only.
EXPECT = 1000
BLASTN = f"-task blastn -word_size 7 -strand plus -evalue {EXPECT} -max_hsps 1 -max_target_seqs {MOST_HITS}"
# The default is words of 15 letters, which related ncRNAs seldom share. Strand 1 is the forward one.
MMSEQS = f"--search-type 3 --strand 1 -k 7 -s 7.5 -e {EXPECT} --max-seqs {MOST_HITS}"


@dataclass(frozen=True)
class Tool:
    """A search tool.

    Attributes:
        name: as `--baselines` calls it.
        title: as reports call it.
        programs: what has to be on the PATH.
        install: how to get it.
        flags: what it is run with, inputs and outputs aside.
    """

    name: str
    title: str
    programs: tuple[str, ...]
    install: str
    flags: str

    def missing(self) -> str | None:
        """Why it cannot run here, and how to mend that; None where it can."""
        absent = [program for program in self.programs if shutil.which(program) is None]
        return f"{', '.join(absent)}: not found on the PATH; install with: {self.install}" if absent else None


BLAST = Tool(
    "blastn",
    "BLASTN",
    ("blastn", "makeblastdb"),
    "apt-get install ncbi-blast+, or conda install -c bioconda blast",
    f"blastn {BLASTN}",
)
MMSEQS2 = Tool(
    "mmseqs",
    "MMseqs2",
    ("mmseqs",),
    "apt-get install mmseqs2, or conda install -c bioconda mmseqs2",
    f"mmseqs easy-search {MMSEQS}",
)
TOOLS = {tool.name: tool for tool in (BLAST, MMSEQS2)}


def search(
    tool: Tool, sequences: list[str], queries: np.ndarray, threads: int, say: Callable[[str], None]
) -> dict[int, np.ndarray]:
    """Search some sequences among all of them.

    Args:
        tool: which.
        sequences: n, upper case, U.
        queries: (Q,) rows.
        threads: processors to use.
        say: takes one line for the person who waits.

    Returns:
        By query the rows that were listed, best bit score first.

    Raises:
        UsageError: the tool is not installed.
        RaypipeError: it failed; the message is its own.
    """
    if (why := tool.missing()) is not None:
        raise UsageError(f"{tool.title}: {why}; or leave it out of --baselines")
    with tempfile.TemporaryDirectory(prefix="raypipe-eval-") as name:
        folder = Path(name)
        _write_fasta(folder / "all.fa", sequences, np.arange(len(sequences)))
        _write_fasta(folder / "asked.fa", sequences, queries)
        if tool.name == "blastn":
            _run(tool, ["makeblastdb", "-in", "all.fa", "-dbtype", "nucl", "-out", "all"], folder, say)
            command = ["blastn", *BLASTN.split(), "-outfmt", "6 qseqid sseqid bitscore", "-num_threads", str(threads)]
            command += ["-db", "all", "-query", "asked.fa", "-out", "hits.tsv"]
        else:
            command = ["mmseqs", "easy-search", "asked.fa", "all.fa", "hits.tsv", "tmp", *MMSEQS.split()]
            command += ["--format-output", "query,target,bits", "--threads", str(threads), "-v", "1"]
        _run(tool, command, folder, say)
        return _read_hits(tool, folder / "hits.tsv")


def _write_fasta(path: Path, sequences: list[str], rows: np.ndarray) -> None:
    """Sequences as DNA, which every tool reads, named by their row."""
    with path.open("w", encoding="ascii") as file:
        for row in rows.tolist():
            file.write(f">{row}\n{sequences[row].translate(_TO_DNA)}\n")


def _run(tool: Tool, command: list[str], folder: Path, say: Callable[[str], None]) -> None:
    log = folder / "log.txt"
    with log.open("wb") as file:
        begin = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            while True:
                try:
                    code = process.wait(timeout=SAY_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{tool.title}: {command[0]} has run for {time.monotonic() - begin:,.0f} s")
        finally:
            # After Ctrl-C nothing goes on in the background.
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise RaypipeError(
            f"{tool.title} failed (exit code {code}): {' '.join(command)}: {' '.join(lines[-3:]) or 'it said nothing'}"
        )


def _read_hits(tool: Tool, path: Path) -> dict[int, np.ndarray]:
    """Lines of query, target and bit score, those of one query together, as a stream: they may be tens of millions.

    Raises:
        RaypipeError: a query comes twice.
    """
    hits: dict[int, np.ndarray] = {}
    if not path.exists() or path.stat().st_size == 0:
        return hits
    names = {"query": pa.int64(), "target": pa.int64(), "bits": pa.float64()}
    reader = arrow_csv.open_csv(
        path,
        arrow_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=_BLOCK_BYTES),
        arrow_csv.ParseOptions(delimiter="\t"),
        arrow_csv.ConvertOptions(column_types=names),
    )
    rest = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)]

    def take(columns: list[np.ndarray], stop: int) -> None:
        if not stop:
            return
        query, target, bits = (column[:stop] for column in columns)
        starts = np.flatnonzero(np.diff(query, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), stop], strict=True):
            row = int(query[start])
            if row in hits:
                raise RaypipeError(f"{tool.title}: lists query {row} twice; this version of it cannot be used")
            hits[row] = ranking(target[start:end], bits[start:end]).astype(np.int32)

    for batch in reader:
        columns = [np.concatenate([old, batch[name].to_numpy()]) for old, name in zip(rest, names, strict=True)]
        # The last query may go on in the next batch.
        stop = _last(columns[0])
        take(columns, stop)
        rest = [column[stop:] for column in columns]
    take(rest, len(rest[0]))
    return hits


def _last(values: np.ndarray) -> int:
    """Where the last run of equal values begins."""
    differ = np.flatnonzero(values != values[-1])
    return int(differ[-1]) + 1 if len(differ) else 0
