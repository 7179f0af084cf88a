"""What a run leaves: a checkpoint with its card, and the curve."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from index import files
from model import Alphabet
from model.checkpoint import save_checkpoint
from model.encoder import AidoRna
from model.loading import DTYPES
from raypipe import __version__
from raypipe.disk_errors import disk_error
from raypipe.errors import InputError, RaypipeError
from raypipe.training import metrics
from raypipe.training.card import Facts, write_card
from raypipe.training.corpus import read_about
from raypipe.training.curve import draw_curve
from raypipe.training.folder import RunFolder
from raypipe.training.recall import Command, recall
from raypipe.training.settings import PretrainSettings
from raypipe.training.state import load_state
from raypipe.training.state_files import latest_state


def finish(folder: RunFolder) -> None:
    """Write all that a finished run leaves; the checkpoint, which says that it is finished, comes last.

    Raises:
        RaypipeError: it cannot be written.
    """
    try:
        draw_curve(folder.curve, metrics.read(folder.metrics), str(folder.settings()["name"]))
        trained = _load(folder)
        with files.atomic(folder.card, folder.root) as draft:
            draft.write_text(trained.card, encoding="utf-8")
        _write(folder.checkpoint, folder.temporary, trained, folder.curve)
    except OSError as error:
        raise disk_error(folder.root, error) from error


def export(folder: RunFolder, out: Path, command: Command) -> int:
    """Write the newest state of a run as a checkpoint; the run may be going on.

    Args:
        folder: of the run.
        out: the checkpoint's folder, to be made.
        command: may say another name and type of the weights, and nothing else that the run was not begun with.

    Returns:
        The step of the state.

    Raises:
        UsageError: the command says what the run is not.
        RaypipeError: there is no state yet, it is damaged, or the checkpoint cannot be written.
        model.errors.CheckpointError: `out` holds something already.
    """
    whole = recall(command, folder.settings(), folder.root, stepped=True).settings
    trained = _load(folder, {"name": whole.name, "store_dtype": whole.store_dtype})
    try:
        _write(out, out.absolute().parent, trained, None)
    except OSError as error:
        raise disk_error(out, error) from error
    return trained.step


@dataclass(frozen=True)
class _Trained:
    """A state as a model.

    Attributes:
        encoder: in the type that it is stored in.
        about: what config.json says of it.
        card: its README.md.
    """

    encoder: AidoRna
    alphabet: Alphabet
    step: int
    about: dict[str, Any]
    card: str


def _load(folder: RunFolder, changes: Mapping[str, Any] | None = None) -> _Trained:
    """The newest state, in words of the run's settings and those that are changed."""
    # Settings that are younger than the run have their defaults.
    settings = PretrainSettings().model_dump(mode="json") | folder.settings() | dict(changes or {})
    state = latest_state(folder.states)
    if state is None:
        raise RaypipeError(f"{folder.root}: has no state yet to make a checkpoint of; wait for its first")
    corpus = read_about(folder.corpus)
    encoder = _encoder_of(folder, state)
    step, kept = load_state(state, dict(encoder.named_parameters()))
    dtype = str(settings["store_dtype"])
    encoder.to(DTYPES[dtype])
    for name, value in encoder.named_parameters():
        if not torch.isfinite(value).all():
            raise RaypipeError(f"{state}: {name} does not fit into {dtype}; store it with --store-dtype bfloat16")
    lines = [line for line in metrics.read(folder.metrics) if line["step"] <= step]
    facts = Facts(
        name=str(settings["name"]),
        config=encoder.config.to_json(),
        parameters=sum(value.numel() for value in encoder.parameters()),
        dtype=dtype,
        settings=settings,
        corpus=corpus,
        lines=lines,
        step=step,
        steps=next((line["steps"] for line in reversed(lines) if "steps" in line), step),
        about=kept,
    )
    about = {
        "name": facts.name,
        "trained": True,
        "source": "raypipe pretrain",
        "raypipe": __version__,
        "steps": step,
        "tokens": kept["tokens"],
        "sequences": corpus["trained_on"],
        "held_out_families": settings["hold_out_families"],
    }
    if settings.get("model"):
        about["continued_from"] = {"model": settings["model"], "fingerprint": settings["model_fingerprint"]}
    return _Trained(encoder.eval(), Alphabet(tuple(corpus["vocabulary"])), step, about, write_card(facts))


def _encoder_of(folder: RunFolder, state: Path) -> AidoRna:
    """An encoder with the parts that the state has weights of."""
    try:
        with safe_open(state, "pt") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{state}: is damaged ({error}); remove it, and the one before is taken") from error
    return AidoRna(
        folder.config(),
        pooler="weights.pooler.dense.weight" in names,
        lm_head="weights.lm_head.bias" in names,
        tied="weights.lm_head.decoder.weight" not in names,
    )


def _write(out: Path, beside: Path, trained: _Trained, curve: Path | None) -> None:
    """Write the checkpoint's folder; it appears whole or not at all.

    Args:
        out: the folder.
        beside: where it is written, on the same file system.
        trained: what it holds.
        curve: a picture that belongs to it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RaypipeError(f"{out}: exists already; name a new folder, nothing is overwritten")
    draft = beside / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        save_checkpoint(draft, trained.encoder, trained.alphabet, {}, {}, about=trained.about)
        (draft / "README.md").write_text(trained.card, encoding="utf-8")
        if curve is not None:
            shutil.copyfile(curve, draft / curve.name)
        files.commit(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
