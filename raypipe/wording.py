"""What a run does to sequences, in words."""

from __future__ import annotations

from collections.abc import Sequence

from index.sets import Prediction, ShardedSet

_LANGUAGE_MODEL = ("pll", "logits", "variants")
_DOING = {"embedded": "embedding", "predicted": "predicting", "scored": "scoring"}
_DO = {"embedded": "embed", "predicted": "predict", "scored": "score"}


def participle(made: ShardedSet) -> str:
    """What a sequence is once it stands in `made`: "embedded", "predicted" or "scored"."""
    if not isinstance(made, Prediction):
        return "embedded"
    return "scored" if made.task in _LANGUAGE_MODEL else "predicted"


def doing(sets: Sequence[ShardedSet]) -> str:
    """Such as "embedding", "predicting structure, rna_type of" or "embedding and predicting structure of"."""
    return _phrase(sets, {word: _DOING[word] for word in _DOING})


def did(sets: Sequence[ShardedSet]) -> str:
    """The same when it is done: "embedded", "scored pll of"."""
    return _phrase(sets, {word: word for word in _DOING})


def to_do(sets: Sequence[ShardedSet]) -> str:
    """The same as an infinitive, without its object's preposition: "embed", "embed and predict structure"."""
    return _phrase(sets, _DO).removesuffix(" of")


def _phrase(sets: Sequence[ShardedSet], verbs: dict[str, str]) -> str:
    parts = []
    for word, verb in verbs.items():
        names = [made.name for made in sets if participle(made) == word]
        if names:
            # A set of vectors is called by its model, which says nothing here.
            parts.append(verb if word == "embedded" else f"{verb} {', '.join(names)} of")
    return " and ".join(parts)
