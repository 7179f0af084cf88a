"""The encoder of an atlas: the model that made its vectors, for queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from index.errors import StoreError
from index.sets import Embedding
from raypipe.errors import RaypipeError, UsageError

if TYPE_CHECKING:
    from model import Model
    from raypipe.checkpoints import Checkpoint


def find_encoder(embedding: Embedding, model: str | None = None) -> Checkpoint:
    """Find the checkpoint of the model that made `embedding`.

    Raises:
        StoreError: `model`, or the files where it was loaded from, are another model now.
    """
    from model import ModelError
    from raypipe.checkpoints import find_checkpoint

    try:
        checkpoint = find_checkpoint(model or embedding.model)
    except (RaypipeError, ModelError) as error:
        if model is not None:
            raise
        raise StoreError(
            f"the vectors {embedding.name!r} were made by {embedding.model}, which cannot be had now ({error}); "
            f"give its present place with --model"
        ) from error
    if checkpoint.fingerprint != embedding.model_fingerprint:
        raise StoreError(
            f"the vectors {embedding.name!r} were made by another model than {model or embedding.model} "
            f"(fingerprint {embedding.model_fingerprint[:12]}, here {checkpoint.fingerprint[:12]}); vectors of "
            f"different models cannot be compared: give that model with --model, or embed anew under another --name"
        )
    return checkpoint


def load_encoder(embedding: Embedding, model: str | None = None, device: str | None = None) -> Model:
    """Load the model that made `embedding`.

    Args:
        device: by default CUDA where there is one.

    Raises:
        StoreError: as `find_encoder`.
    """
    from model import load

    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = find_encoder(embedding, model)
    return load(checkpoint.path, device=device, dtype="float32" if device == "cpu" else embedding.settings["dtype"])


def embed_queries(encoder: Model, embedding: Embedding, sequences: list[str]) -> np.ndarray:
    """(N, D) float32, by the layer, pooling and policy for long sequences of `embedding`.

    Raises:
        UsageError: a query is longer than the model's context, where the atlas refused such sequences too.
    """
    refuse_long(encoder, embedding, sequences)
    long = "truncate" if embedding.on_long == "truncate" else "window"
    features = encoder.features(sequences, pooling=embedding.pooling, layer=embedding.layer, long=long)
    return features.embeddings


def refuse_long(encoder: Model, embedding: Embedding, sequences: list[str]) -> None:
    """Refuse queries that the atlas would not have taken either.

    Raises:
        UsageError: see `embed_queries`.
    """
    context = encoder.config.context
    if embedding.on_long == "reject" and (longest := max(map(len, sequences), default=0)) > context:
        raise UsageError(
            f"a query has {longest} nt; the vectors {embedding.name!r} were made with --on-long reject, so queries "
            f"over {context} nt are refused too: search with a part of it, or embed the atlas with --on-long window"
        )
