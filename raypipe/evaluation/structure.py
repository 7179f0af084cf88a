"""`raypipe eval structure`: how well heads of a model predict known pairs, beside ViennaRNA and two simple rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.structure import Pairs, Structure
from model.structure_metrics import PairCounts, compare_pairs, mean_scores, pooled_scores
from raypipe.answer_files import opened
from raypipe.checkpoints import find_checkpoint, find_heads
from raypipe.errors import UsageError
from raypipe.evaluation.finetuned import Finetuned, read_finetuned
from raypipe.evaluation.folding import HOW_TO_GET_VIENNA, Method, of_head, rules, vienna
from raypipe.evaluation.known_structures import KnownSet, KnownStructure, read_known
from raypipe.evaluation.reports import Column, Report
from raypipe.evaluation.structure_settings import StructureEvalSettings
from raypipe.text_forms import cell

Say = Callable[[str], None]
ALL = "all"
NO_GROUP = "(none)"
PROTOCOL = (
    "precision: share of the predicted pairs that are known; recall: share of the known pairs that are predicted; F1: "
    "their harmonic mean; MCC: over all pairs of positions; each is computed for every sequence, then averaged over "
    "sequences (pooled: over the pairs of all sequences)",
    "F1 ±1: a pair also counts where one of its two positions is off by one (Mathews 2004); pseudoknots and "
    "non-canonical pairs of the known structures count as all others; ±: standard error over sequences",
)
_DETAILS = ("id", "group", "length", "method", "known", "predicted", "precision", "recall", "f1", "f1_shift")
_SUMMED = ("sequences", "failed", "known_pairs", "predicted_pairs")
_ERROR = "f1_error"
# Sequences that are folded at once: in tokens, and pairs of nucleotides in tokens' worth, as predict counts them.
_CHUNK, _PAIRS_PER_TOKEN = 65_536, 100
_SAY_EVERY_S = 10.0


@dataclass(frozen=True)
class Folded:
    """What a method made of the set: for each sequence its pairs (None: it could not), and how they agree."""

    method: Method
    pairs: list[Pairs | None]
    counts: list[PairCounts]
    seconds: float


def evaluate_structure(inputs: Sequence[str], settings: StructureEvalSettings, say: Say) -> Report:
    """Compare methods on known structures.

    Args:
        inputs: tables and structure files.
        settings: which structures, which methods.
        say: takes one line for the person who waits.

    Raises:
        RaypipeError, ModelError: an input, a model or a head cannot be used; the message says which.
    """
    result = None if settings.as_result is None else read_finetuned(settings.as_result)
    named, model = settings.heads, settings.model
    if not named:
        named = ["structure"] if result is None else [str(result.head)]
        model = model if result is None else result.model
    named = [] if named == ["none"] else named
    if not inputs and result is not None:
        if result.settings.table is not None:
            raise UsageError(f"--as {result.root}: is of FASTA with --table; name a table that holds both")
        inputs = [str(path) for path in result.settings.data]
    compared = vienna(settings.compare[0])
    checkpoint = find_checkpoint(model) if named else None
    heads = find_heads(checkpoint, named) if checkpoint else []
    known = read_known(inputs, settings, result)
    say(f"{', '.join(inputs)}: {len(known):,} sequences with known structures")
    methods = [of_head(checkpoint, head, settings) for head in heads] if checkpoint else []
    methods += [*([compared] if compared else []), *rules()]
    found = []
    for method in methods:
        found.append(_fold(method, known.known, say))
        say(f"{method.name}: F1 {mean_scores(found[-1].counts).f1:.3f} ({found[-1].seconds:,.0f} s)")
    if settings.details is not None:
        _write_details(known.known, found, settings)
    notes = _notes(found)
    if compared is None and settings.compare == ["auto"]:
        notes.append(f"ViennaRNA: not installed, so not compared: {HOW_TO_GET_VIENNA}")
    if checkpoint and not checkpoint.trained:
        notes.append(f"{checkpoint.name} is untrained (random weights)")
    about = {
        "evaluation": "structure",
        "input": list(inputs),
        "protocol": PROTOCOL,
        "counts": known.counts,
        "split": _split(settings, result),
        "methods": {one.method.name: one.method.about for one in found},
    }
    columns = [
        Column("method", "method"),
        *([Column("group", settings.by)] if settings.by else []),
        Column("sequences", "sequences", ",d"),
        Column("precision", "precision", ".3f"),
        Column("recall", "recall", ".3f"),
        Column("f1", "F1", ".3f"),
        Column(_ERROR, "±", ".3f"),
        Column("f1_shift", "F1 ±1", ".3f"),
        Column("mcc", "MCC", ".3f"),
        Column("pooled_f1", "pooled F1", ".3f"),
        Column("seconds", "s", ",.0f"),
    ]
    lines = [*_in_words(inputs, known, settings, result), *PROTOCOL]
    return Report(about, lines, columns, list(_rows(known.known, found, settings.by)), notes)


def _fold(method: Method, known: Sequence[KnownStructure], say: Say) -> Folded:
    pairs: list[Pairs | None] = []
    seconds, said = 0.0, time.monotonic()
    while len(pairs) < len(known):
        chunk = _chunk(known, len(pairs))
        begin = time.monotonic()
        pairs += method.fold(chunk)
        seconds += time.monotonic() - begin
        if time.monotonic() - said >= _SAY_EVERY_S:
            said = time.monotonic()
            say(f"{method.name}: {len(pairs):,} of {len(known):,} sequences")
    counts = [compare_pairs(found or (), one.pairs, len(one.sequence)) for found, one in zip(pairs, known, strict=True)]
    return Folded(method, pairs, counts, seconds)


def _chunk(known: Sequence[KnownStructure], begin: int) -> list[str]:
    sequences: list[str] = []
    cost = 0
    for one in known[begin:]:
        cost += len(one.sequence) + len(one.sequence) ** 2 // _PAIRS_PER_TOKEN
        if sequences and cost > _CHUNK:
            break
        sequences.append(one.sequence)
    return sequences


def _rows(known: Sequence[KnownStructure], found: Sequence[Folded], by: str | None) -> Iterator[dict[str, Any]]:
    """Figures of each method, over everything and then group by group."""
    groups: dict[str, list[int]] = {}
    if by is not None:
        for place, one in enumerate(known):
            groups.setdefault(one.group or NO_GROUP, []).append(place)
    for one in found:
        yield {**_figures(one, ALL, range(len(known))), "seconds": round(one.seconds, 3)}
    if by is not None:
        for one in found:
            yield _mean_of_groups([_figures(one, name, places) for name, places in groups.items()])
    for name in sorted(groups, key=lambda name: (-len(groups[name]), name)):
        for one in found:
            yield _figures(one, name, groups[name])


def _figures(one: Folded, group: str, places: Sequence[int]) -> dict[str, Any]:
    counts = [one.counts[place] for place in places]
    return {
        "method": one.method.name,
        "group": group,
        "sequences": len(counts),
        "failed": sum(one.pairs[place] is None for place in places),
        "known_pairs": sum(count.known for count in counts),
        "predicted_pairs": sum(count.predicted for count in counts),
        **asdict(mean_scores(counts)),
        _ERROR: _error([count.scores().f1 for count in counts]),
        **{f"pooled_{name}": value for name, value in asdict(pooled_scores(counts)).items()},
    }


def _mean_of_groups(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each group counts the same: a set where tRNA abounds must not be a test of tRNA."""
    about = {"method": rows[0]["method"], "group": f"mean of {len(rows)} groups"}
    summed = {key: sum(row[key] for row in rows) for key in _SUMMED}
    means = {
        key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in (*about, *_SUMMED, _ERROR)
    }
    return {**about, **summed, **means, _ERROR: _error([row["f1"] for row in rows])}


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def _notes(found: Sequence[Folded]) -> list[str]:
    notes = []
    for one in found:
        if failed := sum(pairs is None for pairs in one.pairs):
            notes.append(f"{one.method.name}: no structure for {failed:,} sequences, which count as without pairs")
        about = ", ".join(
            f"{key} {value}" for key, value in one.method.about.items() if not key.endswith("fingerprint")
        )
        if about:
            notes.append(f"{one.method.name}: {about}")
    return notes


def _split(settings: StructureEvalSettings, result: Finetuned | None) -> dict[str, Any]:
    if result is not None:
        told = result.settings
        kept = {
            name: getattr(told, name) for name in ("where", "test_where", "cluster", "group_column", "split_column")
        }
        shares = {"test": told.test, "valid": told.valid}
        return {"part": settings.part, "of": str(result.root), **kept, "shares": shares, "chosen": settings.where}
    key = settings.split_column or settings.group_column or "sequence"
    shares = None if settings.split_column else {"test": settings.test, "valid": settings.valid}
    return {"part": settings.part, "by": key, "shares": shares, "where": settings.where}


def _in_words(
    inputs: Sequence[str], known: KnownSet, settings: StructureEvalSettings, result: Finetuned | None
) -> list[str]:
    left = [f"{count:,} {kind}" for kind, count in known.counts.items() if kind not in ("rows", "sequences") and count]
    chosen = f" where {settings.where}" if settings.where else ""
    each = "distinct sequences" if settings.distinct else "sequences, repeated ones included,"
    lines = [
        f"{', '.join(inputs)}: {known.counts['rows']:,} rows{chosen}, {len(known):,} {each} with known structures"
        + (f" ({', '.join(left)})" if left else "")
    ]
    if result is not None:
        told = result.settings
        lines.append(
            f"the part {settings.part!r} of {result.root}"
            + (f", which is where {told.test_where}" if told.test_where and settings.part == "test" else "")
            + (f"; what is alike to {told.cluster:g} of it was not trained on" if told.cluster else "")
        )
    elif settings.part == ALL:
        lines.append("all of them; whether a model was trained on some is not known here, see --where and --split")
    elif settings.split_column:
        lines.append(f"the part {settings.part!r} of column {settings.split_column!r}")
    else:
        lines.append(
            f"the part {settings.part!r} of a split by {settings.group_column or 'sequence'} (test {settings.test:g}, "
            f"valid {settings.valid:g}), that of finetune with the same options"
        )
    return lines


def _write_details(known: Sequence[KnownStructure], found: Sequence[Folded], settings: StructureEvalSettings) -> None:
    """A row for every sequence and method, and one with the known structure."""
    with opened(settings.details) as stream:
        stream.write("\t".join((*_DETAILS, "structure")) + "\n")
        for place, one in enumerate(known):
            about = (one.id, one.group, len(one.sequence))
            truth = tuple(map(tuple, one.pairs.tolist()))
            _row(stream, *about, "known", len(truth), None, None, None, None, None, _text(one, truth))
            for method in found:
                counts, pairs = method.counts[place], method.pairs[place]
                scores = counts.scores()
                figures = (scores.precision, scores.recall, scores.f1, scores.f1_shift)
                said = None if pairs is None else _text(one, pairs)
                _row(stream, *about, method.method.name, counts.known, counts.predicted, *figures, said)


def _row(stream: Any, *values: Any) -> None:
    stream.write("\t".join(map(cell, values)) + "\n")


def _text(one: KnownStructure, pairs: Pairs) -> str:
    return Structure(one.sequence, pairs).dot_bracket
