"""`raypipe eval mlm`: how well hidden nucleotides are guessed, by models and by simple counts.

Everything is over A, C, G and U: a model's other tokens (ambiguity letters, special ones) take no part. All that is
asked for is hidden behind <mask>; nothing is replaced by another letter, as in pre-training some are.

Shapes: m hidden letters of one sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raypipe.checkpoints import Checkpoint, find_checkpoint, has_lm_head
from raypipe.errors import RaypipeError
from raypipe.evaluation.contexts import ContextModel, surroundings
from raypipe.evaluation.embedding import CHUNK_PASSES, Progress, budget, chunks, load_model
from raypipe.evaluation.hidden import Task, read_task
from raypipe.evaluation.kmers import LETTERS, codes
from raypipe.evaluation.reports import Column, Report, Table
from raypipe.evaluation.settings import MlmEvalSettings
from raypipe.unpacking import shown

Say = Callable[[str], None]
ALL = "all"
COLUMNS = [
    Column("method", "method"),
    Column("sequences", "sequences", ",d"),
    Column("nucleotides", "hidden", ",d"),
    Column("cross_entropy", "nats", ".4f"),
    Column("cross_entropy_error", "±", ".4f"),
    Column("perplexity", "perplexity", ".3f"),
    Column("accuracy", "accuracy", ".4f"),
]
PROTOCOL = (
    "nats: mean cross entropy over the hidden nucleotides, natural logarithm, among A, C, G and U; ±: standard error, "
    "sequences drawn, not nucleotides; perplexity: exp(nats), 4 for who knows nothing; accuracy: the likeliest letter"
)


def evaluate_mlm(inputs: Sequence[str], settings: MlmEvalSettings, say: Say) -> Report:
    """Compare models and simple counts on the sequences of some files.

    Raises:
        RaypipeError, ModelError: an input or a model cannot be used; the message says which.
    """
    checkpoints = [find_checkpoint(name) for name in settings.models]
    for checkpoint in checkpoints:
        if not has_lm_head(checkpoint):
            raise RaypipeError(f"{checkpoint.asked}: has no masked-LM head, so it cannot guess letters")
    # All methods are asked for the same letters: those that every model reads.
    truncated = settings.on_long == "truncate"
    longest = min(checkpoint.config.context for checkpoint in checkpoints) if truncated else None
    task = read_task(inputs, settings, say, longest)
    say(f"{len(task.asked):,} sequences are asked for")
    rows = []
    for method, guess, seconds in [
        ("uniform", _uniform(task), 0.0),
        ("composition", _composition(task), 0.0),
        *_context(task, settings),
        *(_model(checkpoint, task, settings, say) for checkpoint in checkpoints),
    ]:
        rows += [{**row, "seconds": round(seconds, 3)} for row in _rows(method, task, guess)]
    order = _groups(task)
    rows.sort(key=lambda row: order.index(row["group"]))
    names = ", ".join(map(shown, inputs))
    counts = task.counts
    lines = [
        f"{names}: {counts['records']:,} records, {counts['sequences']:,} distinct sequences; {counts['held_out']:,} "
        f"of them held out by md5 (share {settings.share:g}), {counts['asked']:,} asked for, "
        f"{sum(len(one.places) for one in task.asked):,} nucleotides hidden (rate {settings.rate:g})",
        PROTOCOL,
    ]
    notes = [
        "composition: of what is left to see of the sequence",
        f"context: counts of {settings.context} letters to the left and to the right, learned from the "
        f"{len(task.others):,} sequences that are not held out"
        if task.others
        else "context: left out, every sequence is asked for and none is left to learn from; lower --share",
        *(f"{one.name} is untrained (random weights)" for one in checkpoints if not one.trained),
    ]
    if task.refused is not None:
        notes.append(f"{counts['refused']:,} records refused; the first: {task.refused}")
    about = {"evaluation": "mlm", "inputs": [shown(path) for path in inputs], "protocol": PROTOCOL, "counts": counts}
    overall = Table(COLUMNS, [row for row in rows if row["group"] == ALL])
    return Report(about, lines, COLUMNS, rows, notes, [overall, *_by_group(rows, settings)])


def _by_group(rows: Sequence[dict[str, Any]], settings: MlmEvalSettings) -> list[Table]:
    """Two tables, of cross entropy and of accuracy: a line for each group, a column for each method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    tables = []
    for key, form in (("cross_entropy", ".4f"), ("accuracy", ".4f")):
        lines: dict[str, dict[str, Any]] = {}
        for row in rows:
            line = lines.setdefault(row["group"], {"group": row["group"], "nucleotides": row["nucleotides"]})
            line[row["method"]] = row[key]
        title = "nats" if key == "cross_entropy" else key
        columns = [Column("group", f"{title} by length" + (f" and {settings.by}" if settings.by else ""))]
        columns += [Column("nucleotides", "hidden", ",d"), *(Column(method, method, form) for method in methods)]
        tables.append(Table(columns, [line for group, line in lines.items() if group != ALL]))
    return tables


def _uniform(task: Task) -> list[np.ndarray]:
    return [np.full((len(one.places), LETTERS), -np.log(LETTERS)) for one in task.asked]


def _composition(task: Task) -> list[np.ndarray]:
    """The shares of the letters that can be seen, each counted once more."""
    found = []
    for one in task.asked:
        letters, _ = codes([one.sequence])
        counts = np.bincount(np.delete(letters, one.places), minlength=LETTERS)[:LETTERS] + 1.0
        found.append(np.tile(np.log(counts / counts.sum()), (len(one.places), 1)))
    return found


def _context(task: Task, settings: MlmEvalSettings) -> list[tuple[str, list[np.ndarray], float]]:
    if not task.others:
        return []
    begin = time.monotonic()
    model = ContextModel(task.others, settings.context, rate=settings.rate, seed=settings.seed)
    found = [model.log_probabilities(*surroundings(one.sequence, one.places, settings.context)) for one in task.asked]
    return [(f"context {settings.context}+{settings.context}", found, time.monotonic() - begin)]


def _model(
    checkpoint: Checkpoint, task: Task, settings: MlmEvalSettings, say: Say
) -> tuple[str, list[np.ndarray], float]:
    from model.scoring import nucleotide_log_probabilities

    begin = time.monotonic()
    model = load_model(checkpoint, settings)
    found: list[Any] = [None] * len(task.asked)
    sequences = [one.sequence for one in task.asked]
    progress = Progress(checkpoint.name, sum(map(len, sequences)), say)
    for rows in chunks(sequences, CHUNK_PASSES * budget(model, settings)):
        texts = [task.asked[row].text for row in rows]
        scores = model.logits(texts, head="masked_lm", long=settings.on_long, max_tokens=settings.max_tokens)
        for row, logits in zip(rows, scores, strict=True):
            # <cls> and <eos> stand at the ends.
            found[row] = nucleotide_log_probabilities(logits[1:-1], model.alphabet)[task.asked[row].places]
        progress.add(sum(len(sequences[row]) for row in rows))
    return checkpoint.name, found, time.monotonic() - begin


def _rows(method: str, task: Task, guesses: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """A row for all sequences and for each group of them."""
    counts, losses, right = (np.zeros(len(task.asked)) for _ in range(3))
    for place, (one, logs) in enumerate(zip(task.asked, guesses, strict=True)):
        counts[place] = len(one.letters)
        losses[place] = -logs[np.arange(len(logs)), one.letters].sum()
        right[place] = (logs.argmax(axis=1) == one.letters).sum()
    rows = []
    for group in _groups(task):
        chosen = np.array([group == ALL or group in one.groups for one in task.asked])
        n, loss = counts[chosen], losses[chosen]
        mean = float(loss.sum() / n.sum())
        spread = ((loss - n * mean) ** 2).sum() * len(n) / max(len(n) - 1, 1)
        rows.append(
            {
                "group": group,
                "method": method,
                "sequences": int(chosen.sum()),
                "nucleotides": int(n.sum()),
                "cross_entropy": mean,
                "cross_entropy_error": float(np.sqrt(spread) / n.sum()) if len(n) > 1 else float("nan"),
                "perplexity": float(np.exp(mean)),
                "accuracy": float(right[chosen].sum() / n.sum()),
            }
        )
    return rows


def _groups(task: Task) -> list[str]:
    """All, bins of length from short to long, types from frequent to rare."""
    bins = sorted({one.groups[0] for one in task.asked}, key=lambda name: int(name.partition("-")[0].split()[0]))
    kinds: dict[str, int] = {}
    for one in task.asked:
        for kind in one.groups[1:]:
            kinds[kind] = kinds.get(kind, 0) + len(one.places)
    return list(dict.fromkeys([ALL, *bins, *sorted(kinds, key=lambda kind: (-kinds[kind], kind))]))
