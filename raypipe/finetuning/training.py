"""The loop: epochs of steps, each epoch measured on valid and kept, until nothing gets better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raypipe.errors import RaypipeError
from raypipe.finetuning.batching import epoch_batches, learning_rate
from raypipe.finetuning.learners import Batch, Learner, NotFinite
from raypipe.finetuning.metrics import is_better
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.state import Standing, Weights, load, save

_LINE_EVERY_S = 15.0
_SHOWN_IDS = 10


@dataclass
class Course:
    """Everything that a training needs; plain values, so that several processes could be given one each.

    Attributes:
        learner: gives gradients.
        modules: what is trained, by name: "head", and "trunk" unless it is frozen.
        weights: what is trained and kept, by name; the tensors of these modules themselves.
        fixed: tensors that the weights are learned on, by name; kept beside them.
        settings: of the run.
        metric: what the best epoch is chosen by.
        places: of the training examples.
        lengths: nucleotides of all examples.
        ids: of all examples, for messages.
        measure: an epoch's figures on valid; None where there is no such part.
        folder: where it keeps its standing.
        say: takes a line for the person who waits.
    """

    learner: Learner
    modules: dict[str, nn.Module]
    weights: Weights
    fixed: Weights
    settings: FinetuneSettings
    metric: str
    places: np.ndarray
    lengths: np.ndarray
    ids: Sequence[str]
    measure: Callable[[], dict[str, Any]] | None
    folder: Path
    say: Callable[[str], None]
    heard: float = field(default_factory=time.monotonic)


def train(course: Course) -> Standing:
    """Train until the last epoch, or until patience is at its end; goes on where an earlier run stopped.

    Returns:
        Where the run stands; the weights are those of the best epoch.

    Raises:
        RaypipeError: a loss or gradient is no number; the message names step and sequences.
    """
    settings = course.settings
    optimizer = _optimizer(course)
    standing = load(course.folder, course.weights, optimizer) or Standing()
    if standing.epoch:
        course.say(f"goes on after epoch {standing.epoch} of {settings.epochs}")
    while not settings.finish and standing.epoch < settings.epochs and not _tired(course, standing):
        _epoch(course, standing, optimizer)
        save(course.folder, standing, course.weights, course.fixed, optimizer)
    if standing.best:
        with torch.no_grad():
            for name, value in course.weights.items():
                value.copy_(standing.best[name])
    for module in course.modules.values():
        module.eval()
    return standing


def _tired(course: Course, standing: Standing) -> bool:
    patience = course.settings.patience
    return course.measure is not None and patience is not None and standing.epoch - standing.best_epoch >= patience


def _epoch(course: Course, standing: Standing, optimizer: torch.optim.Optimizer) -> None:
    settings = course.settings
    begin = time.monotonic()
    for module in course.modules.values():
        module.train()
    batches = _batches(course, standing.epoch)
    steps = [batches[k : k + settings.accumulate] for k in range(0, len(batches), settings.accumulate)]
    total = count = share = 0.0
    for number, step in enumerate(steps, 1):
        # In the middle of a step, so that neither the first nor the last one is lost to a rate of 0.
        share = learning_rate((standing.epoch + (number - 0.5) / len(steps)) / settings.epochs, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * share
        where = f"epoch {standing.epoch + 1}, step {number}"
        sum_, divisor = _step(course, step, optimizer, where)
        total, count = total + sum_, count + divisor
        if time.monotonic() - course.heard >= _LINE_EVERY_S:
            course.heard = time.monotonic()
            course.say(f"{where} of {len(steps):,}: loss {total / max(count, 1e-12):.4f}")
    standing.epoch += 1
    line: dict[str, Any] = {"epoch": standing.epoch, "loss": total / max(count, 1e-12), "lr": settings.lr * share}
    for module in course.modules.values():
        module.eval()
    if course.measure is not None:
        try:
            line["valid"] = course.measure()
        except NotFinite as error:
            where = f"epoch {standing.epoch}, on valid"
            raise RaypipeError(_broken(course, where, str(error), error.batch)) from None
        value = line["valid"][course.metric]
        # None: every prediction is the same, which is worse than anything (see `metrics.check_metric`).
        best = not standing.best_epoch or (value is not None and is_better(course.metric, value, standing.best_value))
    else:
        # Without valid the last epoch counts.
        value, best = None, True
    if best:
        standing.best_epoch, standing.best_value = standing.epoch, value
        standing.best = {name: tensor.detach().cpu().clone() for name, tensor in course.weights.items()}
    line["seconds"] = round(time.monotonic() - begin, 3)
    standing.seconds += line["seconds"]
    standing.history.append(line)
    course.say(_said(course, standing, line))


def _step(
    course: Course, batches: list[list[int]], optimizer: torch.optim.Optimizer, where: str
) -> tuple[float, float]:
    """One step; the sum of its losses and what it was divided by."""
    divisor = sum(course.learner.count(batch) for batch in batches)
    if divisor == 0:
        return 0.0, 0.0
    optimizer.zero_grad(set_to_none=True)
    sum_ = 0.0
    for batch in batches:
        try:
            sum_ += course.learner.backward(batch, divisor)
        except NotFinite as error:
            raise RaypipeError(_broken(course, where, str(error), error.batch)) from None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, course.settings.clip)
    if not torch.isfinite(norm):
        raise RaypipeError(_broken(course, where, f"the gradient is {float(norm)}", list(chain(*batches))))
    optimizer.step()
    return sum_, divisor


def _broken(course: Course, where: str, what: str, batch: Batch) -> str:
    ids = ", ".join(course.ids[place] for place in batch[:_SHOWN_IDS])
    more = f" and {len(batch) - _SHOWN_IDS:,} more" if len(batch) > _SHOWN_IDS else ""
    return (
        f"{where}: {what}, of the sequences {ids}{more}; look at their labels, or train with a smaller --lr (now "
        f"{course.settings.lr:g}) or --clip, or with --dtype float32"
    )


def _batches(course: Course, epoch: int) -> list[list[int]]:
    settings = course.settings
    return epoch_batches(course.places, course.lengths, settings.tokens, seed=settings.seed, epoch=epoch)


def _optimizer(course: Course) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and norms, and a learning rate of its own for the trunk."""
    settings = course.settings
    groups: list[dict[str, Any]] = []
    for name, module in course.modules.items():
        rate = settings.lr if name == "head" else settings.trunk_rate
        trained = [p for p in module.parameters() if p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in trained if (p.ndim > 1) == matrices]
            if chosen:
                decay = settings.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": rate, "highest": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def _said(course: Course, standing: Standing, line: dict[str, Any]) -> str:
    """An epoch in a line."""
    text = f"epoch {line['epoch']:>3} of {course.settings.epochs}: loss {line['loss']:.4f}"
    if "valid" in line:
        text += f", valid loss {line['valid']['loss']:.4f}"
        if course.metric != "loss":
            value = line["valid"][course.metric]
            text += f", {course.metric} {'-' if value is None else f'{value:.4f}'}"
        text += " *" if standing.best_epoch == line["epoch"] else ""
    return f"{text} ({line['seconds']:.1f} s)"


def trained_weights(modules: Iterable[tuple[str, nn.Module]]) -> Weights:
    """The tensors that are trained, by the module's name and theirs."""
    return {
        f"{name}.{key}": parameter
        for name, module in modules
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
