"""All benchmarks one after another: `make bench`. What each measures, and how, stands at its top.

Arguments are passed on to the comparison with multimolecule, e.g. `python -m tests.benchmarks.run --rounds 1`.
"""

from __future__ import annotations

from tests.benchmarks import peer_multimolecule, tokenizer


def main() -> None:
    """Run them in turn, never side by side: they would take the cores from each other."""
    print("# Tokenizer, one core", flush=True)
    tokenizer.main()
    peer_multimolecule.main()


if __name__ == "__main__":
    main()
