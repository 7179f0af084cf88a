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


def command(made: ShardedSet) -> str:
    """The verb of the command line that makes `made`: "embed", "predict" or "mlm"."""
    return "mlm" if participle(made) == "scored" else made.run


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


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min", "3.4 h" or "2.1 days"."""
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    hours = seconds / 3600
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def size(number: float) -> str:
    """Bytes, such as "812 B", "4.2 MiB" or "1.3 TiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
