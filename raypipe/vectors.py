"""Which set of vectors a run makes, and whether it is the one that the store already holds under that name."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

from index.errors import StoreError
from index.store import Embedding, Store
from raypipe.checkpoints import Checkpoint
from raypipe.errors import RaypipeError
from raypipe.settings import EmbedSettings


def has_begun(store: Store, name: str) -> bool:
    """Whether the set of vectors called `name` has a finished shard, so that its settings are fixed."""
    return name in store.embeddings and bool(store.embedding_parts(name))


def describe(store: Store, settings: EmbedSettings, checkpoint: Checkpoint, *, cuda: bool) -> Embedding:
    """The set of vectors that these settings ask for; its `settings` hold the compute type as resolved.

    Args:
        cuda: whether the run will be on CUDA, which decides the compute type where neither settings nor store do.

    Raises:
        StoreError: the store holds another set under that name.
        RaypipeError: the model has no such layer, or the name cannot be that of a folder.
    """
    layer = checkpoint.config.num_layers if settings.layer == -1 else settings.layer
    if layer > checkpoint.config.num_layers:
        raise RaypipeError(
            f"--layer {settings.layer}: {checkpoint.name} has {checkpoint.config.num_layers} layers; give 0 to "
            f"{checkpoint.config.num_layers}, or -1 for the last"
        )
    last = layer == checkpoint.config.num_layers
    name = settings.name or "-".join(
        [
            checkpoint.name,
            *([] if last else [f"layer{layer}"]),
            *([] if settings.pooling == "mean" else [settings.pooling]),
        ]
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise RaypipeError(f"--name {name!r}: use letters, digits, '.', '_' and '-' only")
    # Without a finished shard nothing is fixed yet: a first try that failed may be repeated with other settings.
    known = store.embeddings.get(name) if has_begun(store, name) else None
    compute = settings.dtype or (known.settings["dtype"] if known else ("bfloat16" if cuda else "float32"))
    identity = [checkpoint.fingerprint, layer, settings.pooling, settings.on_long]
    asked = Embedding(
        name=name,
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        model=checkpoint.asked,
        model_path=checkpoint.path,
        model_fingerprint=checkpoint.fingerprint,
        dimension=checkpoint.config.hidden_size,
        dtype=settings.store_dtype,
        pooling=settings.pooling,
        layer=layer,
        on_long=settings.on_long,
        per_token=settings.per_token,
        shard_tokens=settings.shard_tokens or (known.shard_tokens if known else 0),
        settings={**settings.model_dump(), "dtype": compute},
    )
    if known:
        _refuse_difference(store, known, asked)
        # The same weights may have moved; everything else stays as it was begun.
        return replace(known, model=checkpoint.asked, model_path=checkpoint.path)
    return asked


def _refuse_difference(store: Store, known: Embedding, asked: Embedding) -> None:
    names = ["model_fingerprint", "pooling", "layer", "on_long", "dtype", "per_token", "shard_tokens"]
    differences = [
        # Twelve digits of a fingerprint say enough.
        f"{name} {str(getattr(known, name))[:12]} there, {str(getattr(asked, name))[:12]} asked for"
        for name in names
        if getattr(known, name) != getattr(asked, name)
    ]
    if known.settings["dtype"] != asked.settings["dtype"]:
        differences.append(f"computed in {known.settings['dtype']} there, {asked.settings['dtype']} asked for")
    if differences:
        raise StoreError(
            f"{store.root}: its vectors {known.name!r} were made by {known.model} with other settings "
            f"({'; '.join(differences)}); give the same, or choose another --name"
        )
