"""What a model gives for the sequences of a shard: the trunk runs once for all sets of vectors and of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index.sets import Embedding, Prediction, ShardedSet
from model.errors import ModelError
from raypipe.prediction_tables import refuse_prediction
from raypipe.vector_tables import Vectors, refuse_vectors

if TYPE_CHECKING:
    from model import Model

HEADS = ("sequence", "token", "contact", "structure")


@dataclass(frozen=True)
class Ask:
    """How the model is asked, the same for every shard of a run.

    Attributes:
        on_long: what becomes of sequences over the model's context.
        max_tokens: of one packed forward pass; None leaves it to the model.
        threshold, pseudoknots: of the heads' answers; see `model.Model.predict`.
    """

    on_long: str
    max_tokens: int | None = None
    threshold: float | None = None
    pseudoknots: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """As the model's methods take them; what `reject` refuses never gets there."""
        return {"long": "truncate" if self.on_long == "truncate" else "window", "max_tokens": self.max_tokens}


@dataclass(frozen=True)
class Output:
    """What one set gets of a list of sequences.

    Attributes:
        rows: by place in the list; of failed ones nothing.
        reasons: by place, why it failed.
    """

    rows: dict[int, Any] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


def head_name(made: Prediction) -> str:
    """What the loaded model calls the head of `made`."""
    return Path(made.head_path).stem if made.head_path else str(made.head)


def compute(model: Model, sets: Sequence[ShardedSet], sequences: Sequence[str], ask: Ask) -> list[Output]:
    """An output for each of `sets`; a sequence that one of them fails for is there in the others all the same."""
    outputs = [Output() for _ in sets]
    context = model.config.context
    fitting = []
    for place, sequence in enumerate(sequences):
        if ask.on_long == "reject" and len(sequence) > context:
            for output in outputs:
                output.reasons[place] = f"{len(sequence)} nt, longer than the model's {context}; see --on-long"
        else:
            fitting.append(place)
    _run(model, list(zip(sets, outputs, strict=True)), sequences, fitting, ask)
    return outputs


def one_pass(model: Model, sets: Sequence[ShardedSet], sequences: Sequence[str], ask: Ask) -> list[list[Any]]:
    """For each of `sets` what it gets of each of `sequences`.

    Raises:
        ModelError: the model refuses a sequence, or has not what a set asks for.
    """
    embedding = next((made for made in sets if isinstance(made, Embedding)), None)
    heads = [head_name(made) for made in sets if isinstance(made, Prediction) and made.task in HEADS]
    shared: dict[str, list[Any]] = {}
    if embedding or heads:
        vectors = {"pooling": embedding.pooling, "layer": embedding.layer} if embedding else {"embeddings": False}
        features = model.features(
            sequences,
            **vectors,
            per_token=embedding is not None and embedding.per_token,
            heads=heads,
            threshold=ask.threshold,
            pseudoknots=ask.pseudoknots,
            **ask.options,
        )
        tokens = features.tokens or [None] * len(sequences)
        shared = dict(features.predictions)
        pooled = [Vectors(*row) for row in zip(features.embeddings, tokens, strict=True)] if embedding else []
    results = []
    for made in sets:
        if made is embedding:
            results.append(pooled)
        elif isinstance(made, Prediction):
            results.append(shared[head_name(made)] if made.task in HEADS else _scores(model, made, sequences, ask))
    return results


def _scores(model: Model, made: Prediction, sequences: Sequence[str], ask: Ask) -> list[Any]:
    """What the masked language model says."""
    if made.task == "logits":
        # The specials' rows are no nucleotides.
        return [logits[1:-1] for logits in model.logits(sequences, head="masked_lm", **ask.options)]
    method = "wild-type" if made.method == "wild-type" else "masked"
    if made.task == "pll":
        return list(model.pseudo_log_likelihood(sequences, method=method, **ask.options))
    return list(model.variants(sequences, method=method, **ask.options))


def _run(
    model: Model,
    wanted: list[tuple[ShardedSet, Output]],
    sequences: Sequence[str],
    places: list[int],
    ask: Ask,
) -> None:
    if not places or not wanted:
        return
    try:
        results = one_pass(model, [made for made, _ in wanted], [sequences[place] for place in places], ask)
    except ModelError as problem:
        # By halves, first the sequences, then the sets, so that nothing is taken along by what is refused, and what is
        # not refused runs a few times only.
        if len(places) > 1:
            half = len(places) // 2
            _run(model, wanted, sequences, places[:half], ask)
            _run(model, wanted, sequences, places[half:], ask)
        elif len(wanted) > 1:
            for one in wanted:
                _run(model, [one], sequences, places, ask)
        else:
            wanted[0][1].reasons[places[0]] = str(problem)
        return
    for (made, output), rows in zip(wanted, results, strict=True):
        for place, row in zip(places, rows, strict=True):
            reason = _refuse(made, row)
            if reason is None:
                output.rows[place] = row
            else:
                output.reasons[place] = reason


def _refuse(made: ShardedSet, row: Any) -> str | None:
    if isinstance(made, Embedding):
        return refuse_vectors(made, row)
    return refuse_prediction(made, row) if isinstance(made, Prediction) else None
