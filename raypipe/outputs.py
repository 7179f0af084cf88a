"""What a model gives for the sequences of a shard: the trunk runs once for all sets of vectors and of heads.

What does not fit the memory is tried again in smaller batches, then in fewer sequences at a time. Results do not depend
on batches but in their last bits, as a sum's depend on the shape of what it is computed with; every list of sequences
begins with the full batches again, so its bits depend on itself and on the memory, not on what was computed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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


def compute(
    model: Model,
    sets: Sequence[ShardedSet],
    sequences: Sequence[str],
    ask: Ask,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Output]:
    """An output for each of `sets`; a sequence that one of them fails for is there in the others all the same.

    Args:
        tell: takes the new budget of tokens where batches had to be made smaller.

    Raises:
        MemoryError, RuntimeError: not even a few nucleotides fit the memory: that is no fault of the sequences.
    """
    outputs = [Output() for _ in sets]
    context = model.config.context
    fitting = []
    for place, sequence in enumerate(sequences):
        if ask.on_long == "reject" and len(sequence) > context:
            for output in outputs:
                output.reasons[place] = f"{len(sequence)} nt, longer than the model's {context}; see --on-long"
        else:
            fitting.append(place)
    _run(model, list(zip(sets, outputs, strict=True)), sequences, fitting, ask, tell)
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
    tell: Callable[[int], None],
) -> None:
    if not places or not wanted:
        return
    asked = [sequences[place] for place in places]
    results = reason = None
    starved = False
    try:
        results = _smaller_passes(model, [made for made, _ in wanted], asked, ask, tell)
    except ModelError as problem:
        reason = str(problem)
    except (MemoryError, RuntimeError) as problem:
        if not is_memory_error(problem):
            raise
        starved = True
        reason = f"does not fit the memory of {model.device}, even alone ({_first_sentence(problem)})"
    # Not within `except`: the error holds on to everything that was computed when it was raised.
    if starved:
        _free_memory(model)
    if results is None:
        # By halves, first the sequences, then the sets, so that nothing is taken along by what is refused, and what is
        # not refused runs a few times only.
        if len(places) > 1:
            half = len(places) // 2
            _run(model, wanted, sequences, places[:half], ask, tell)
            _run(model, wanted, sequences, places[half:], ask, tell)
        elif len(wanted) > 1:
            for one in wanted:
                _run(model, [one], sequences, places, ask, tell)
        else:
            if starved:  # what does not fit a few nucleotides is no fault of this sequence
                one_pass(model, [wanted[0][0]], ["ACGU"], ask)
            wanted[0][1].reasons[places[0]] = str(reason)
        return
    for (made, output), rows in zip(wanted, results, strict=True):
        for place, row in zip(places, rows, strict=True):
            why = _refuse(made, row)
            if why is None:
                output.rows[place] = row
            else:
                output.reasons[place] = why


def _smaller_passes(
    model: Model, sets: Sequence[ShardedSet], sequences: Sequence[str], ask: Ask, tell: Callable[[int], None]
) -> list[list[Any]]:
    """`one_pass`, with half the budget of tokens again and again for as long as the memory does not suffice.

    Raises:
        ModelError: as `one_pass`.
        MemoryError, RuntimeError: not even a batch of one window fits, see `is_memory_error`.
    """
    from model.trunk import DEFAULT_MAX_TOKENS

    budget = ask.max_tokens or DEFAULT_MAX_TOKENS[model.device.type]
    least = min(max(map(len, sequences)), model.config.context) + 2
    while True:
        try:
            return one_pass(model, sets, sequences, ask)
        except (MemoryError, RuntimeError) as problem:
            if not is_memory_error(problem) or budget <= least:
                raise
        _free_memory(model)
        budget //= 2
        ask = replace(ask, max_tokens=budget)
        tell(budget)


def is_memory_error(problem: BaseException) -> bool:
    """Whether there was too little memory: of a CUDA device, or of the machine as torch, NumPy or Arrow say it."""
    import torch

    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "ALLOC_FAILED")  # of torch's CPU allocator, and of cuBLAS and its like
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)


def _free_memory(model: Model) -> None:
    """Give back what torch keeps of the device's memory in pieces of the wrong size."""
    if model.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _first_sentence(problem: BaseException) -> str:
    return (str(problem).partition(". ")[0].partition("\n")[0] or type(problem).__name__)[:200]


def _refuse(made: ShardedSet, row: Any) -> str | None:
    if isinstance(made, Embedding):
        return refuse_vectors(made, row)
    return refuse_prediction(made, row) if isinstance(made, Prediction) else None
