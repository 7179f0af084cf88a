"""Nucleotides per second through the tokenizer, on one core: python tests/benchmarks/tokenizer.py"""

from __future__ import annotations

import time

import numpy as np

from model.alphabet import Alphabet


def main() -> None:
    """Print the rate for several length mixes, best of seven passes."""
    random = np.random.default_rng(0)
    alphabet = Alphabet()
    for name, mean, count in (("short, mean 30 nt", 30, 200_000), ("mean 212 nt", 212, 50_000), ("1022 nt", 0, 10_000)):
        lengths = np.full(count, 1022) if mean == 0 else np.maximum(1, random.exponential(mean, count).astype(int))
        sequences = ["".join(random.choice(list("ACGU"), n)) for n in lengths]
        best = float("inf")
        for _ in range(7):
            start = time.process_time()
            alphabet.encode(sequences)
            best = min(best, time.process_time() - start)
        print(f"{name}: {lengths.sum() / best / 1e6:.0f} million nt/s ({count} sequences, {best * 1e3:.1f} ms)")


if __name__ == "__main__":
    main()
