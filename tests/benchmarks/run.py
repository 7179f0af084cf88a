"""All benchmarks one after another: `make bench`. What each measures, and how, stands at its top.

Options that all of them know (--rounds, --layers, --threads, --fasta, --seed, --results) are passed on to each, e.g.
`python -m tests.benchmarks.run --rounds 1`.
"""

from __future__ import annotations

import sys

from tests.benchmarks import (
    annotations,
    cpu,
    head_memory,
    heads,
    ingest,
    options,
    overhead,
    peer_multimolecule,
    peer_variants,
    pretrain,
    search,
    search_tools,
    serving,
    tokenizer,
)


def main() -> None:
    """Run them in turn, never side by side: they would take the cores from each other."""
    options.parser(__doc__).parse_args()
    arguments = sys.argv[1:]
    print("# Tokenizer, one core", flush=True)
    tokenizer.main()
    model = (overhead, head_memory, heads, pretrain, cpu, peer_multimolecule, peer_variants)
    for benchmark in (ingest, *model, search, search_tools, annotations, serving):
        print(f"# {benchmark.__name__}", flush=True)
        benchmark.main(arguments)


if __name__ == "__main__":
    main()
