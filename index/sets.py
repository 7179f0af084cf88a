"""What is made of the store's sequences shard by shard: sets of vectors, and sets of predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Pooling = Literal["mean", "cls", "max"]
OnLong = Literal["window", "truncate", "reject"]
VectorDtype = Literal["float16", "float32"]
Task = Literal["sequence", "token", "contact", "structure", "pll", "logits", "variants"]
Problem = Literal["regression", "binary", "multiclass", "multilabel"]


@dataclass(frozen=True, kw_only=True)
class ShardedSet:
    """One set: a model's outputs for the sequences of the store, one part file a shard.

    Attributes:
        name: unique among the sets of its kind; the folder of its parts is called so.
        fingerprint: sha256 over everything that its values depend on; every part's footer carries it.
        model: what the user named; `model_path` is where it was loaded from.
        on_long: what became of sequences over the model's context.
        shard_tokens: the most tokens of one shard that holds several sequences.
        settings: of the run that began it, as resolved.
    """

    main: ClassVar[str]
    run: ClassVar[str]

    name: str
    fingerprint: str
    model: str
    model_path: str
    model_fingerprint: str
    on_long: OnLong
    shard_tokens: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def folders(self) -> tuple[str, ...]:
        """The store's folders that hold a file of every finished shard; the first is `main`."""
        return (self.main,)


@dataclass(frozen=True, kw_only=True)
class Embedding(ShardedSet):
    """One set of vectors: a model, layer and pooling over the sequences of the store.

    Attributes:
        fingerprint: sha256 over the model's fingerprint, layer, pooling and the policy for long sequences.
        dimension: values per vector; `dtype` float16 or float32 as stored.
        per_token: whether tokens/ holds one vector per nucleotide too.
    """

    main: ClassVar[str] = "embeddings"
    run: ClassVar[str] = "embed"

    dimension: int
    dtype: VectorDtype
    pooling: Pooling
    layer: int
    per_token: bool
    metric: str = "cosine"

    @property
    def folders(self) -> tuple[str, ...]:
        """("embeddings",), and "tokens" where there is one vector per nucleotide."""
        return ("embeddings", "tokens") if self.per_token else ("embeddings",)


@dataclass(frozen=True, kw_only=True)
class Prediction(ShardedSet):
    """One set of predictions: a head, or a use of the masked language model, over the sequences of the store.

    Attributes:
        task: the kind of head, or "pll", "logits" or "variants" of the language model; it decides the columns.
        problem: of a head; None for the language model.
        labels: names of the C classes or outputs, always so many; for "logits" the vocabulary.
        head: what the user named; None for the language model.
        head_path: file of the head; None where it lives in the checkpoint.
        threshold: decision threshold on probabilities; None where there is nothing to decide.
        pseudoknots: whether structures may have them.
        method: how the language model was asked ("masked" or "wild-type"); None for heads.
        dtype: of the values of "logits" as stored; the other tasks' columns have types of their own.
    """

    main: ClassVar[str] = "predictions"
    run: ClassVar[str] = "predict"

    task: Task
    problem: Problem | None = None
    labels: list[str] = field(default_factory=list)
    head: str | None = None
    head_path: str | None = None
    head_fingerprint: str | None = None
    threshold: float | None = None
    pseudoknots: bool = False
    method: str | None = None
    dtype: VectorDtype = "float32"
