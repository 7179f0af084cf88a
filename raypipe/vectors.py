"""The set of vectors that a run is asked for."""

from __future__ import annotations

import hashlib
import json

from index.store import Embedding
from raypipe.checkpoints import Checkpoint
from raypipe.errors import UsageError
from raypipe.settings import EmbedSettings


def describe_vectors(settings: EmbedSettings, checkpoint: Checkpoint) -> Embedding:
    """The set of vectors that these settings ask for, as far as they say it (see `raypipe.sets.settle`).

    Raises:
        UsageError: the model has no such layer.
    """
    layer = checkpoint.config.num_layers if settings.layer == -1 else settings.layer
    if layer > checkpoint.config.num_layers:
        raise UsageError(
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
    identity = [checkpoint.fingerprint, layer, settings.pooling, settings.on_long]
    return Embedding(
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
        shard_tokens=settings.shard_tokens or 0,
        settings=settings.model_dump(),
    )
