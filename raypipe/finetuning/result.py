"""Write what a run leaves, from the finished head itself: what is measured is what `raypipe predict` gives."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model import Model, fingerprint, load
from model.adapters import write_adapter
from model.head_files import FOLDER as HEADS
from model.lora import merge_lora, write_lora
from raypipe import __version__
from raypipe.answering import PAIRS_PER_TOKEN
from raypipe.finetuning.batching import by_cost
from raypipe.finetuning.cautions import split_by
from raypipe.finetuning.curve import draw_curve
from raypipe.finetuning.examples import PARTS
from raypipe.finetuning.folder import HISTORY, METRICS
from raypipe.finetuning.metrics import usual_metric
from raypipe.finetuning.predictions import write_predictions
from raypipe.finetuning.report import Report, readme
from raypipe.finetuning.scoring import labelled, measure_predictions
from raypipe.finetuning.state import Standing

if TYPE_CHECKING:
    from raypipe.finetuning.job import Task
    from raypipe.finetuning.workshop import Workshop

MODEL, LORA, CURVE, README = "model", "lora.safetensors", "curve.png", "README.md"
_CHUNK_TOKENS = 65_536


def write_result(task: Task, workshop: Workshop, standing: Standing) -> Report:
    """Write adapter, model, predictions, figures and README into the folder of the result.

    Args:
        task: what was taught.
        workshop: with the trained head.
        standing: how the training went.
    """
    examples, settings = task.examples, task.settings
    trained = bool(standing.best_epoch) or (task.start is not None and task.start.trained is not False)
    with task.folder.writing() as draft:
        model = _write_model(task, workshop, draft, trained)
        name = model.load_head(draft / f"{task.name}.safetensors")
        held = [part for part in ("valid", "test") if len(examples.part(part))]
        places = np.concatenate([np.zeros(0, np.int64), *(examples.part(part) for part in held)])
        if len(places):
            task.say(f"measuring the finished head on {len(places):,} sequences held out")
        predictions = _predict(model, name, [examples.sequences[place] for place in places.tolist()], settings.pairs)
        by_place = dict(zip(places.tolist(), predictions, strict=True))
        limit = 0.5 if workshop.config.threshold is None else workshop.config.threshold
        parts: dict[str, Any] = {}
        for part in PARTS:
            own = examples.part(part)
            if not len(own):
                continue
            if part == "train":
                parts[part] = {"sequences": len(own), "n": _entries(task, own), **_train_loss(standing)}
            else:
                found = [by_place[place] for place in own.tolist()]
                parts[part] = measure_predictions(
                    examples, own, found, limit, usual_metric(task.metric, examples.space)
                )
        shown = examples.part("test") if len(examples.part("test")) else examples.part("valid")
        if len(shown):
            write_predictions(draft, examples, shown, [by_place[place] for place in shown.tolist()])
        report = Report(task.folder.root, _metrics(task, workshop, standing, parts))
        if standing.history:
            lines = "".join(json.dumps(line) + "\n" for line in standing.history)
            (draft / HISTORY).write_text(lines, encoding="utf-8")
            title = f"{task.name}: {settings.method}, {task.checkpoint.name}"
            draw_curve(draft / CURVE, standing.history, task.metric, standing.best_epoch, title)
        command = f"raypipe finetune --config {shlex.quote(str(task.folder.root / 'settings.json'))} -o RESULT"
        (draft / README).write_text(readme(report, command), encoding="utf-8")
        (draft / METRICS).write_text(json.dumps(report.metrics, indent=2) + "\n", encoding="utf-8")
    return report


def _write_model(task: Task, workshop: Workshop, draft: Path, trained: bool) -> Model:
    """Write the head, and the trunk where it was changed; returns the model as `raypipe predict` loads it."""
    model = workshop.model
    adapter = draft / f"{task.name}.safetensors"
    if task.settings.method == "frozen":
        write_adapter(adapter, workshop.head, workshop.config, trunk=task.checkpoint.fingerprint, trained=trained)
        return model
    trunk = model.module
    if workshop.lora is not None:
        write_lora(draft / LORA, trunk, workshop.lora, task.checkpoint.fingerprint)
        merge_lora(trunk)
    else:
        model.trained = True
    # It was trained for another trunk, and nobody looked after it since.
    trunk.lm_head = None
    folder = draft / MODEL
    model.save(folder, heads=[])
    write_adapter(adapter, workshop.head, workshop.config, trunk=fingerprint(folder), trained=trained)
    (folder / HEADS).mkdir()
    shutil.copy2(adapter, folder / HEADS / adapter.name)
    return load(folder, device=model.device, dtype=workshop.dtype)


def _predict(model: Model, name: str, sequences: Sequence[str], pairs: bool) -> list[Any]:
    lengths = np.array(list(map(len, sequences)), np.int64)
    costs = lengths + (lengths**2 // PAIRS_PER_TOKEN if pairs else 0)
    found: list[Any] = []
    for batch in by_cost(np.arange(len(lengths)), costs, _CHUNK_TOKENS):
        found += model.predict([sequences[place] for place in batch], name, dense=False)[name]
    return found


def _entries(task: Task, places: np.ndarray) -> int:
    labels = [task.examples.labels[place] for place in places.tolist()]
    if task.settings.pairs:
        return sum(map(len, labels))
    return labelled(task.examples.space, np.concatenate([np.ravel(array) for array in labels]))


def _train_loss(standing: Standing) -> dict[str, float]:
    best = next((line for line in standing.history if line["epoch"] == standing.best_epoch), None)
    return {} if best is None else {"loss": best["loss"]}


def _metrics(task: Task, workshop: Workshop, standing: Standing, parts: dict[str, Any]) -> dict[str, Any]:
    space, best = task.examples.space, standing.best_epoch
    for line in standing.history:
        if line["epoch"] == best and "valid" in line:
            counts = {name: parts["valid"][name] for name in ("sequences", "n")}
            parts["valid"] = {**counts, "loss": line["valid"]["loss"], **parts["valid"]}
    return {
        "name": task.name,
        "task": space.task,
        "problem": space.problem,
        "labels": list(space.names),
        "columns": list(task.columns),
        "model": task.checkpoint.asked,
        "model_fingerprint": task.checkpoint.fingerprint,
        "method": task.settings.method,
        "dtype": task.settings.dtype,
        "computed": {"device": workshop.model.device.type, "dtype": workshop.dtype, "cached": workshop.cached},
        "trained_parameters": workshop.num_parameters,
        "threshold": workshop.config.threshold,
        "metric": task.metric,
        "best_epoch": best,
        "epochs": standing.epoch,
        "seconds": round(standing.seconds, 1),
        "data_fingerprint": task.examples.fingerprint,
        "start_fingerprint": None if task.start is None else task.start.fingerprint,
        "split_by": split_by(task.settings),
        "cautions": task.cautions,
        "raypipe": __version__,
        "parts": parts,
    }
