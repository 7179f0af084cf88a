"""Queries as an atlas takes them: names and canonical letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raypipe.cleaning import clean
from raypipe.errors import UsageError

MASK = "<mask>"
Queries = str | Sequence[str] | Mapping[str, str]
"""One sequence, a list, or a mapping from names to sequences; T or U, either case."""


def labelled(sequences: Queries, names: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Names of queries, by default query_1, query_2, ..., and their sequences as given.

    Raises:
        UsageError: there is none, one is no text, or not one name for each.
    """
    if isinstance(sequences, Mapping):
        names, sequences = list(sequences) if names is None else names, list(sequences.values())
    listed = _listed(sequences, "sequences")
    if not listed:
        raise UsageError("no query; give a sequence, a FASTA file or --ids")
    named = labels(len(listed), names)
    for label, sequence in zip(named, listed, strict=True):
        if not isinstance(sequence, str):
            raise UsageError(f"{label}: a sequence is text, not {type(sequence).__name__}")
    return named, listed


def labels(number: int, names: Sequence[str] | None = None) -> list[str]:
    """What so many queries are called.

    Raises:
        UsageError: not one name for each, or one is no text.
    """
    if names is None:
        return [f"query_{place}" for place in range(1, number + 1)]
    if len(names) != number:
        raise UsageError(f"{len(names)} names for {number} queries; give one for each")
    return texts(names, "names")


def listed_ids(ids: str | Sequence[str]) -> list[str]:
    """Ids of records, one or several, as a list.

    Raises:
        UsageError: there is none, or one is no text.
    """
    listed = texts(ids, "ids")
    if not listed:
        raise UsageError("no id; give at least one")
    return listed


def texts(values: str | Sequence[str], what: str) -> list[str]:
    """One text or several as a list.

    Args:
        what: they are called in a message.

    Raises:
        UsageError: there is something else than text.
    """
    listed = _listed(values, what)
    for value in listed:
        if not isinstance(value, str):
            raise UsageError(f"{what}: {value!r} is no text; give a list of texts")
    return listed


def _listed(values: str | Sequence[str], what: str) -> list[str]:
    try:
        return [values] if isinstance(values, str) else list(values)
    except TypeError as error:
        raise UsageError(f"{what}: give text or a list of texts, not {type(values).__name__}") from error


def check_top_k(top_k: int) -> None:
    """
    Raises:
        UsageError: it is no number of tokens to ask for.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise UsageError(f"top_k is {top_k}; ask for at least one token, in a whole number")


def clean_queries(
    sequences: Queries, names: Sequence[str] | None = None, *, masks: bool = False
) -> tuple[list[str], list[str]]:
    """Names and canonical letters of queries; unnamed ones are called query_1, query_2, ...

    Args:
        masks: whether each has at least one <mask> in it, in place of a nucleotide.

    Raises:
        UsageError: there is none, or one is no RNA; the message names it and says why.
    """
    names, listed = labelled(sequences, names)
    cleaned = []
    for label, sequence in zip(names, listed, strict=True):
        parts = sequence.strip().split(MASK) if masks else [sequence.strip()]
        if masks and len(parts) == 1:
            raise UsageError(f"{label} ({_shown(sequence)}): has no {MASK} to fill in")
        letters = [clean(part) if part or not masks else (b"", None) for part in parts]
        reason = next((reason for _, reason in letters if reason is not None), None)
        if reason is not None:
            raise UsageError(f"{label} ({_shown(sequence)}): {reason}")
        cleaned.append(MASK.join(canonical.decode("ascii") for canonical, _ in letters))
    return names, cleaned


def _shown(sequence: str) -> str:
    return repr(sequence if len(sequence) <= 30 else sequence[:30] + "...")
