"""Verbs about checkpoints: model info, model convert, fill-mask."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from raypipe import connect, is_server
from raypipe.checkpoints import find_checkpoint
from raypipe.cli.asking import Token
from raypipe.cli.progress import say, warn_untrained

model_app = App(name="model", help="Look at checkpoints, and convert them.")


@model_app.command
def info(
    name: Annotated[str | None, Parameter(help="Name, folder or hub id; without it, every known checkpoint.")] = None,
    *,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
) -> None:
    """Dimensions, parameters, licence and origin of a checkpoint."""
    from model import registry

    entry = registry.find(name) if name else None
    about: Any
    if name is None:
        about = [asdict(known) for known in registry.entries().values()]
        if not json_output:
            for known in registry.entries().values():
                print(f"{known.name:20} {known.parameters / 1e6:8.1f} M parameters  {known.title}")
            return
    elif entry is not None and not Path(name).is_dir():
        about = asdict(entry)
    else:
        checkpoint = find_checkpoint(name)
        about = {**asdict(checkpoint), "config": asdict(checkpoint.config)}
    if json_output:
        print(json.dumps(about, indent=2))
        return
    for key, value in _flat(about):
        print(f"{key:18} {value}")


@model_app.command
def convert(
    source: Annotated[Path, Parameter(help="Folder of a checkpoint, in GenBio's or multimolecule's layout.")],
    target: Annotated[Path, Parameter(help="Folder to make.")],
    *,
    u_row: Annotated[
        Literal["U", "T"] | None, Parameter(help="Which row of GenBio's vocabulary is uracil; known for most names.")
    ] = None,
) -> None:
    """Write a checkpoint as config.json, vocab.txt and model.safetensors."""
    from model.convert import convert as convert_checkpoint

    for remark in convert_checkpoint(source, target, u_row=u_row):
        say(remark)
    say(f"wrote {target}; use it with --model {target}")


def fill_mask(
    *sequences: Annotated[str, Parameter(help="RNA with <mask> where a nucleotide is to be guessed.")],
    model: Annotated[
        str,
        Parameter(help="Checkpoint: name, folder or hub id; or the address of a server (http://...) of an atlas."),
    ] = "nano",
    top_k: Annotated[int, Parameter(help="Answers for each mask.")] = 5,
    format: Annotated[Literal["tsv", "jsonl"], Parameter(help="Format of the answer.")] = "tsv",
    token: Token = None,
) -> None:
    """Guess masked nucleotides; scores are over the whole vocabulary."""
    from model import load
    from raypipe.errors import UsageError

    if not sequences:
        raise UsageError("name a sequence with <mask> in it, in quotes: raypipe fill-mask 'GGUC<mask>CUCU'")
    if is_server(model):
        answers = _asked(model, token, sequences, top_k)
    else:
        if token is not None:
            raise UsageError(f"--token: {model} is no server, so it takes none; leave it out")
        checkpoint = find_checkpoint(model)
        if not checkpoint.trained:
            warn_untrained(checkpoint.name)
        answers = load(checkpoint.path).fill_mask(list(sequences), top_k=top_k)
    if format == "tsv":
        print("query\tmask\tscore\ttoken_str\tsequence")
    for text, answer in zip(sequences, answers, strict=True):
        masks = answer if isinstance(answer[0], list) else [answer]
        for number, candidates in enumerate(masks, 1):
            for found in candidates:
                if format == "jsonl":
                    print(json.dumps({"query": text, "mask": number, **found}))
                else:
                    print(f"{text}\t{number}\t{found['score']:.6f}\t{found['token_str']}\t{found['sequence']}")


def _asked(server: str, token: str | None, sequences: Sequence[str], top_k: int) -> list[Any]:
    """What the model of a server's atlas says, as `Model.fill_mask` says it; but for the numbers of the tokens."""
    names = [f"query_{number}" for number in range(1, len(sequences) + 1)]
    answers: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in names}
    with connect(server, token) as atlas:
        for row in atlas.fill_mask(dict(zip(names, sequences, strict=True)), top_k):
            found = {"score": row["probability"], "token_str": row["token"], "sequence": row["sequence"]}
            answers[row["query"]].setdefault(row["position"], []).append(found)
    for masks in answers.values():
        for found in (found for candidates in masks.values() for found in candidates):
            tokens = re.findall(r"<[a-z]+>|.", found["sequence"])
            if len(masks) > 1:  # then the special tokens stay
                tokens = ["<cls>", *(token for token in tokens if token != "<pad>"), "<eos>"]
            found["sequence"] = " ".join(token for token in tokens if len(masks) > 1 or len(token) == 1)
    return [list(masks.values()) for masks in answers.values()]


def _flat(about: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in about.items():
        rows += _flat(value) if isinstance(value, dict) else [(key, value)]
    return [(key, "" if value is None else value) for key, value in rows]
