"""Small runs of pre-training: sequences with families and annotations, settings that cost nothing, a trainer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.alphabet import Alphabet
from raypipe.training.corpus import TRAIN, VALID, Corpus
from raypipe.training.feed import StepMaker
from raypipe.training.labels import UNKNOWN
from raypipe.training.settings import PretrainSettings

CONTEXT = 60
SHAPE = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
SMALL: dict[str, Any] = {
    **SHAPE,
    "steps": 6,
    "batch_tokens": 400,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "precision": "float32",
    "log_every": 1,
    "valid_every": 3,
    "checkpoint_every": 2,
    "valid_share": 0.1,
}
PAIRS: dict[str, Any] = {"family_column": "family", "contrastive_weight": 0.5, "families": 3, "singles": 3}
FAMILIES, PER_FAMILY, ALONE = 8, 5, 60


def small(**changes: Any) -> PretrainSettings:
    """Settings of a run that takes a second."""
    return PretrainSettings(**{**SMALL, **changes})


def make_corpus_of(
    lengths: Sequence[int],
    *,
    weight: Sequence[float] | None = None,
    family: Sequence[int] | None = None,
    group: Sequence[int] | None = None,
    part: Sequence[int] | None = None,
) -> Corpus:
    """A corpus in memory, of random nucleotides; without families, all to be trained on unless told otherwise."""
    count = len(lengths)
    ids = Alphabet().nucleotides[np.random.default_rng(5).integers(0, 4, sum(lengths))].astype(np.uint8)
    unknown = np.full(count, UNKNOWN, dtype=np.int32)
    families = unknown if family is None else np.array(family, dtype=np.int32)
    return Corpus(
        ids=ids,
        offsets=np.cumsum([0, *lengths]),
        weight=np.ones(count, np.float32) if weight is None else np.array(weight, np.float32),
        family=families,
        group=families if group is None else np.array(group, dtype=np.int32),
        part=np.full(count, TRAIN, np.uint8) if part is None else np.array(part, np.uint8),
        about={"vocabulary": list(Alphabet().tokens), "trained_on": count, "validated_on": 0, "left_out": 0},
    )


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """As a run keeps it."""
    folder.mkdir(parents=True)
    (folder / "ids.u8").write_bytes(corpus.ids.tobytes())
    for name in ("offsets", "weight", "family", "group", "part"):
        np.save(folder / f"{name}.npy", getattr(corpus, name))
    (folder / "corpus.json").write_text(json.dumps(dict(corpus.about)))


def family_corpus() -> Corpus:
    """40 sequences of 8 families, of which 2 are one clan and 2 are to be validated on, and 60 of no family."""
    dice = random.Random(2)
    lengths = [dice.randint(20, 80) for _ in range(FAMILIES * PER_FAMILY + ALONE)]
    family = [number // PER_FAMILY if number < FAMILIES * PER_FAMILY else UNKNOWN for number in range(len(lengths))]
    group = [0 if code == 1 else code for code in family]
    part = [VALID if code >= FAMILIES - 2 or number % 9 == 8 else TRAIN for number, code in enumerate(family)]
    return make_corpus_of(lengths, family=family, group=group, part=part)


def step_maker(corpus: Corpus, settings: PretrainSettings, rank: int = 0, world: int = 1) -> StepMaker:
    return StepMaker(corpus, Alphabet(), settings, CONTEXT, rank, world)


def write_run_inputs(folder: Path) -> list[str]:
    """in.fa with 12 families of 6 and 40 others, families.tsv with type, family and clan; the command line's part."""
    dice = random.Random(3)
    with (folder / "in.fa").open("w") as fasta, (folder / "families.tsv").open("w") as table:
        table.write("id\trna_type\tfamily\tclan\n")
        for family in range(12):
            seed = dice.choices("ACGU", k=dice.randint(25, 45))
            clan = "CL1" if family in (4, 5) else ""
            for member in range(6):
                sequence = "".join(letter if dice.random() > 0.1 else dice.choice("ACGU") for letter in seed)
                fasta.write(f">f{family}_{member}\n{sequence}\n")
                table.write(f"f{family}_{member}\t{'rRNA' if family < 3 else 'tRNA'}\tRF{family:05d}\t{clan}\n")
        for number in range(40):
            fasta.write(f">r{number}\n{''.join(dice.choices('ACGU', k=dice.randint(15, 60)))}\n")
            table.write(f"r{number}\tother\t\t\n")
    return [str(folder / "in.fa"), "--annotations", f"families={folder / 'families.tsv'}"]


def options(**changes: Any) -> list[str]:
    """`SMALL` and further settings as options of the command line, each in one word."""
    found = []
    for name, value in {**SMALL, **changes}.items():
        option = name.replace("_", "-")
        if isinstance(value, dict):
            found += [f"--{option}.{key}={each}" for key, each in value.items()]
        elif isinstance(value, bool):
            found.append(f"--{'' if value else 'no-'}{option}")
        else:
            found.append(f"--{option}={value}")
    return found


def losses(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the machine."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]
