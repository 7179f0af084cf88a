"""The sets of predictions that a run is asked for: of heads, or of the masked language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from index.sets import Prediction
from model.alphabet import Alphabet
from model.head_config import HeadConfig
from model.head_files import HeadFile
from model.identity import checkpoint_folder, read_alphabet
from model.predictions import Decision
from raypipe.checkpoints import Checkpoint, has_lm_head
from raypipe.errors import RaypipeError, UsageError
from raypipe.prediction_text import gives_structure
from raypipe.settings import MlmSettings, RunSettings


def describe_heads(
    settings: RunSettings,
    checkpoint: Checkpoint,
    heads: Sequence[HeadFile],
    *,
    name: str | None = None,
    threshold: float | None = None,
    pseudoknots: bool = False,
) -> list[Prediction]:
    """A set of predictions for each of `heads`, as far as the settings say it (see `raypipe.sets.settle`).

    Args:
        name: of the set, where there is one head; by default the head's.
        threshold: probability above which something is so; by default the head's own, else 0.5.
        pseudoknots: let structures have them.

    Raises:
        UsageError: one name for several heads, or a threshold or pseudoknots where no head has a use for them.
    """
    if name is not None and len(heads) != 1:
        raise UsageError(f"--name {name}: names the predictions of one head, and there are {len(heads)}")
    if threshold is not None and not any(_decides(head.config) for head in heads):
        raise UsageError(f"--threshold: nothing that {_listed(heads)} says depends on one; leave it out")
    if pseudoknots and not any(gives_structure(head.config) for head in heads):
        raise UsageError(f"--pseudoknots: {_listed(heads)} gives no structure; leave it out")
    return [
        _prediction(
            settings,
            checkpoint,
            name=name or head.name,
            task=head.config.kind,
            problem=head.config.problem,
            labels=list(head.config.label_names),
            head=head.name,
            head_path=str(head.path) if head.path else None,
            head_fingerprint=head.fingerprint,
            threshold=Decision(head.name, head.config, threshold).limit if _decides(head.config) else None,
            pseudoknots=pseudoknots and gives_structure(head.config),
        )
        for head in heads
    ]


def describe_mlm(settings: MlmSettings, checkpoint: Checkpoint) -> Prediction:
    """The set of predictions that the masked language model is asked for.

    Raises:
        UsageError: a method or type is given where what is asked has no use for it.
        RaypipeError: the checkpoint has no masked-LM head.
    """
    logits = settings.what == "logits"
    if logits and "method" in settings.model_fields_set:
        raise UsageError("--method: logits are those of one pass over the sequence as it is; leave it out")
    if not logits and "store_dtype" in settings.model_fields_set:
        raise UsageError(f"--store-dtype: {settings.what} has one type, only logits have a choice; leave it out")
    if not has_lm_head(checkpoint):
        raise RaypipeError(
            f"{checkpoint.name} has no masked-LM head, so it cannot score letters; give a checkpoint that has one with "
            f"--model (one that was pre-trained, not fine-tuned)"
        )
    alphabet: Alphabet = read_alphabet(checkpoint_folder(checkpoint.path))
    return _prediction(
        settings,
        checkpoint,
        name=settings.name or settings.what,
        task=settings.what,
        labels=list(alphabet.tokens) if logits else [],
        method=None if logits else settings.method,
        dtype=settings.store_dtype if logits else "float32",
    )


def _prediction(settings: RunSettings, checkpoint: Checkpoint, **about: Any) -> Prediction:
    made = Prediction(
        fingerprint="",
        model=checkpoint.asked,
        model_path=checkpoint.path,
        model_fingerprint=checkpoint.fingerprint,
        on_long=settings.on_long,
        shard_tokens=settings.shard_tokens or 0,
        settings=settings.model_dump(),
        **about,
    )
    identity = [made.model_fingerprint, made.head_fingerprint, made.task, made.problem, made.labels, made.threshold]
    identity += [made.pseudoknots, made.method, made.on_long, made.dtype]
    return replace(made, fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest())


def _decides(config: HeadConfig) -> bool:
    """Whether the head's answer depends on a threshold."""
    if config.kind == "sequence":
        return config.problem in ("binary", "multilabel")
    return config.kind != "token" and config.problem != "regression"


def _listed(heads: Sequence[HeadFile]) -> str:
    return " or ".join(repr(head.name) for head in heads)
