"""nhmmer by pyhmmer, in the peers' interpreter: a warm process that has read a database.

    python -m tests.benchmarks.search_nhmmer DATABASE.fasta

A request names the `queries`, sequences; the answer has `cpu_s` and `wall_s` of one thread for all of them together,
and `hits`, how many each had.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.conversation import answers, serve
from tests.benchmarks.search_worker import timed


def main() -> None:
    """Run from the command line."""
    easel: Any = importlib.import_module("pyhmmer.easel")
    hmmer: Any = importlib.import_module("pyhmmer.hmmer")
    letters = easel.Alphabet.dna()

    def digital(name: str, text: str) -> Any:
        return easel.TextSequence(name=name.encode(), sequence=text).digitize(letters)

    with answers() as out:
        lines = Path(sys.argv[1]).read_text(encoding="ascii").split()
        database = [digital(head[1:], text) for head, text in zip(lines[::2], lines[1::2], strict=True)]
        block = easel.DigitalSequenceBlock(letters, database)

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            asked = [digital(f"query{place}", text) for place, text in enumerate(request["queries"])]
            taken, found = timed(lambda: [len(hits) for hits in hmmer.nhmmer(asked, block, cpus=1)])
            return {**taken, "hits": found}

        serve({"versions": machine.versions(), "sequences": len(block)}, answer, out)


if __name__ == "__main__":
    main()
