"""From rows to examples: what is labelled, wanted and not there twice, in parts that share no sequence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.head_config import HeadConfig
from raypipe.cleaning import md5
from raypipe.errors import InputError, UsageError
from raypipe.finetuning.cautions import check_taught, check_threshold
from raypipe.finetuning.examples import Examples, check_parts
from raypipe.finetuning.labels import LabelError, Parser, Words
from raypipe.finetuning.parting import NEAR_TEST, parts_of
from raypipe.finetuning.rows import Rejects, Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.sources import read_rows
from raypipe.finetuning.spaces import Space, as_texts, of_head, settle, shown, tally

# Of identical sequences in several parts the one that is measured on stays.
_RANK = {"test": 0, "valid": 1, "train": 2}
_LATER = "parted later"


@dataclass
class _Candidate:
    row: Row
    raw: np.ndarray
    part: str


def prepare(
    settings: FinetuneSettings, context: int, rejects: Rejects, head: HeadConfig | None = None
) -> tuple[Examples, tuple[str, ...], int]:
    """Read and choose what is taught.

    Args:
        settings: of the run.
        context: nucleotides that the model reads at a time.
        rejects: takes what is not used.
        head: whose labels hold, with `--start`.

    Returns:
        The examples, the names of the label columns, and how many rows were read.

    Raises:
        InputError: a file cannot be read, labels are of no use, or too many rows are broken.
        UsageError: the settings do not fit the data.
    """
    rows, named, total = read_rows(settings, rejects)
    columns = tuple(named)
    parse = Parser(settings.kind, columns, Words.of(settings.rename, settings.missing), settings.problem)
    candidates = _labelled(rows, parse, settings, settings.longest(context), rejects)
    rejects.check(total, settings.max_rejects)
    candidates = _distinct(candidates, rejects)
    if not candidates:
        why = reasons(rejects) or "there is nothing below the header"
        raise InputError(f"{settings.data[0]}: no labelled sequence is left of {total:,} rows ({why})")
    if head is None:
        # The problem shows in all rows, before any are taken out.
        raws = [one.raw for one in candidates]
        first = settle(settings.kind, columns, raws, raws, settings.problem, settings.positive)
        candidates = _sampled(_without_rare(candidates, first, settings, rejects), first, settings, rejects)
        _part(candidates, settings)
        taught = [one.raw for one in candidates if one.part == "train" or not settings.epochs]
        raws = [one.raw for one in candidates]
        space = settle(settings.kind, columns, raws, taught, first.problem, settings.positive)
    else:
        space = of_head(head, columns)
        candidates = _sampled(candidates, space, settings, rejects)
        _part(candidates, settings)
    examples = _encoded(candidates, space, rejects, known=head is not None)
    rejects.check(total, settings.max_rejects)
    check_parts(settings, examples.parts)
    if settings.epochs:
        check_taught(examples, columns)
    check_threshold(settings, examples)
    return examples, columns, total


def reasons(rejects: Rejects) -> str:
    """Why rows are not used, in numbers."""
    parts = [f"{count:,} {kind}" for kind, count in rejects.kinds.items() if count]
    parts += [f"{rejects.unread:,} not chosen by --where"] if rejects.unread else []
    parts += [f"{rejects.num_broken:,} rejected"] if rejects.num_broken else []
    return ", ".join(parts)


def describe(examples: Examples, columns: tuple[str, ...], total: int, rejects: Rejects) -> list[str]:
    """What was read and what it means, for the person who waits; see also `cautions`."""
    space = examples.space
    counts = ", ".join(f"{name} {len(examples.part(name)):,}" for name in ("train", "valid", "test"))
    lines = [f"{total:,} rows read, {len(examples):,} sequences used ({counts}); {reasons(rejects) or 'all used'}"]
    what = f"labels: {', '.join(columns)} ({space.problem} {space.task})"
    if space.task in ("contact", "structure"):
        pairs = sum(map(len, examples.labels))
        return [*lines, f"{what}: {pairs:,} pairs in {examples.lengths.sum():,} nucleotides"]
    if space.problem == "regression":
        return [*lines, f"{what}: {space.num_labels} value{'s' if space.num_labels > 1 else ''}"]
    counted = tally(space, (examples.labels[place] for place in examples.part("train"))).most_common()
    many = f"{len(counted)} classes" if space.problem == "multiclass" else "yes"
    return [*lines, f"{what}: {many} in train: {shown([f'{name} {count:,}' for name, count in counted])}"]


def _labelled(
    rows: list[Row], parse: Parser, settings: FinetuneSettings, longest: int | None, rejects: Rejects
) -> list[_Candidate]:
    found: list[_Candidate] = []
    for row, part in zip(rows, _early_parts(settings, rows), strict=True):
        if longest is not None and len(row.sequence) > longest:
            rejects.left_out(row, f"longer than {longest} nt", f"{len(row.sequence)} nt; see --max-length")
            continue
        try:
            raw = parse(row.values, len(row.sequence))
        except LabelError as error:
            rejects.broken(row.file, row.line, row.id, f"{', '.join(parse.columns)}: {error}")
            continue
        if raw is None:
            rejects.left_out(row, "unlabelled", "no label")
        elif part == NEAR_TEST:
            rejects.left_out(row, NEAR_TEST, "of a group or like a sequence of the test part")
        else:
            found.append(_Candidate(row, raw, part))
    return found


def _early_parts(settings: FinetuneSettings, rows: list[Row]) -> list[str]:
    """The part of each row; `_LATER` where only what is used is clustered, which is often a small share of all rows.

    Not where rows are held out by a condition, since what is alike to them is to be left out, nor of structures, whose
    split `raypipe eval structure --as` repeats.
    """
    later = settings.cluster is not None and settings.test_where is None and settings.task != "structure"
    return [_LATER] * len(rows) if later else parts_of(settings, rows)


def _part(candidates: list[_Candidate], settings: FinetuneSettings) -> None:
    """Give those their part that have none yet."""
    if candidates and candidates[0].part == _LATER:
        for one, part in zip(candidates, parts_of(settings, [one.row for one in candidates]), strict=True):
            one.part = part


def _distinct(candidates: list[_Candidate], rejects: Rejects) -> list[_Candidate]:
    """Each sequence once, in the part that is measured on rather than in the one that is trained on."""
    first: dict[str, _Candidate] = {}
    for one in candidates:
        known = first.setdefault(one.row.sequence, one)
        # Without parts yet the first one stays: what is identical is one cluster.
        if _RANK.get(one.part, 0) < _RANK.get(known.part, 0):
            first[one.row.sequence] = one
    kept: list[_Candidate] = []
    for one in candidates:
        chosen = first[one.row.sequence]
        if chosen is one:
            kept.append(one)
            continue
        where = f"the sequence of {chosen.row.file}, line {chosen.row.line}, {chosen.row.id}"
        same = np.array_equal(one.raw, chosen.raw, equal_nan=one.raw.dtype.kind == "f" == chosen.raw.dtype.kind)
        if one.part != chosen.part:
            rejects.left_out(one.row, "in another part too", f"{where}, which is in {chosen.part}")
        elif same:
            rejects.left_out(one.row, "repeated", f"{where} again")
        else:
            rejects.left_out(one.row, "repeated with another label", f"{where} with another label")
    return kept


def _without_rare(
    candidates: list[_Candidate], space: Space, settings: FinetuneSettings, rejects: Rejects
) -> list[_Candidate]:
    """Take classes out that have too few members."""
    classes = space.problem == "multiclass" or (space.problem == "multilabel" and space.truth is None)
    if settings.min_per_class == 1:
        return candidates
    if not classes:
        raise UsageError(f"--min-per-class: the labels are no classes ({space.problem}); leave it out")
    counts: Counter[str] = Counter()
    for one in candidates:
        one.raw = as_texts(one.raw)
        words, times = np.unique(one.raw, return_counts=True)
        counts.update(dict(zip(words.tolist(), times.tolist(), strict=True)))
    rare = [word for word, count in counts.items() if count < settings.min_per_class]
    kept: list[_Candidate] = []
    for one in candidates:
        one.raw = np.where(np.isin(one.raw, rare), "", one.raw)
        if (one.raw == "").all():
            rejects.left_out(one.row, "of rare classes", f"a class of fewer than {settings.min_per_class} members")
        else:
            kept.append(one)
    if not kept:
        raise UsageError(f"--min-per-class {settings.min_per_class}: no class has so many")
    return kept


def _sampled(
    candidates: list[_Candidate], space: Space, settings: FinetuneSettings, rejects: Rejects
) -> list[_Candidate]:
    """At most so many of a class, and in all: those whose hash comes first."""
    if settings.max_per_class is None and settings.sample is None:
        return candidates
    if settings.max_per_class is not None and (space.task, space.problem) != ("sequence", "multiclass"):
        raise UsageError("--max-per-class: is for sequences of one class each; see --sample")
    keys = [md5(one.row.sequence.encode("ascii")) for one in candidates]
    order = sorted(range(len(candidates)), key=keys.__getitem__)
    if settings.max_per_class is not None:
        order = _first_of_each(order, lambda place: str(candidates[place].raw), settings.max_per_class)
    chosen = set(order[: settings.sample])
    rejects.kinds["not in the sample"] += len(candidates) - len(chosen)
    return [one for place, one in enumerate(candidates) if place in chosen]


def _first_of_each(order: list[int], key: Callable[[int], str], most: int) -> list[int]:
    taken: defaultdict[str, int] = defaultdict(int)
    kept: list[int] = []
    for place in order:
        taken[key(place)] += 1
        if taken[key(place)] <= most:
            kept.append(place)
    return kept


def _encoded(candidates: list[_Candidate], space: Space, rejects: Rejects, *, known: bool) -> Examples:
    """The labels as numbers; rows of classes that nothing is trained on are left out.

    Raises:
        InputError: the classes are those of a head, and a row has another one.
    """
    rows: list[_Candidate] = []
    labels: list[np.ndarray] = []
    for one in candidates:
        unknown = sorted(space.unknown(one.raw))
        if unknown and known:
            raise InputError(
                f"{one.row.file}, line {one.row.line}, {one.row.id}: the head does not know {shown(unknown)}; it knows "
                f"{shown(space.names)}. Rename classes with --rename, or choose rows with --where"
            )
        try:
            encoded = space.encode(one.raw)
        except LabelError as error:
            rejects.broken(one.row.file, one.row.line, one.row.id, str(error))
            continue
        if unknown and (space.problem == "multilabel" or (encoded < 0).all()):
            reason = f"{shown(unknown)}: no such class in what is trained on"
            rejects.left_out(one.row, "of classes that train has not", reason)
            continue
        rejects.kinds["with some labels that train has not"] += bool(unknown)
        rows.append(one)
        labels.append(encoded)
    return Examples(
        [one.row.id for one in rows],
        [f"{one.row.file}, line {one.row.line}" for one in rows],
        [one.row.sequence for one in rows],
        labels,
        np.array([one.part for one in rows], dtype="U5"),
        space,
    )
