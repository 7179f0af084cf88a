"""The sequences that benchmarks run on: real ones, chosen the same way every time."""

from __future__ import annotations

import random
from pathlib import Path

import dnaio

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 1022


def default_fasta() -> Path:
    """The real mix of ncRNAs beside the checkout where there is one, else the demo corpus."""
    shared = ROOT.parent / "shared" / "data" / "ncrna.fasta.gz"
    return shared if shared.is_file() else ROOT / "raypipe" / "demo_data" / "demo.fasta.gz"


def sample(fasta: Path, count: int, seed: int, longest: int = LONGEST) -> list[str]:
    """Evenly spaced sequences of the file sorted by length, cut at `longest` nt, in a seeded shuffle."""
    pool = _by_length(fasta)
    if len(pool) < count:
        raise SystemExit(
            f"{fasta} has {len(pool)} sequences, {count} are asked for; give another --fasta or fewer --sequences"
        )
    chosen = [pool[(2 * place + 1) * len(pool) // (2 * count)][:longest] for place in range(count)]
    random.Random(seed).shuffle(chosen)
    return chosen


def one(fasta: Path, length: int) -> str:
    """The first of the file's sequences, sorted by length, that has this many nt of A C G U alone; cut to them."""
    for sequence in _by_length(fasta):
        letters = sequence.upper().replace("T", "U")[:length]
        if len(letters) == length and not set(letters) - set("ACGU"):
            return letters
    raise SystemExit(f"{fasta} has no sequence of {length} nt of A C G U alone; give another --fasta or --length")


def _by_length(fasta: Path) -> list[str]:
    with dnaio.open(fasta) as reader:
        return sorted((record.sequence for record in reader), key=lambda sequence: (len(sequence), sequence))
