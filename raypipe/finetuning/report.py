"""What a run tells at its end: a table for people, the files' JSON, the commands that use the head."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.errors import RaypipeError
from raypipe.finetuning.folder import METRICS

_HIDDEN = ("baseline", "classes", "outputs")


@dataclass(frozen=True)
class Report:
    """A finished run.

    Attributes:
        root: folder of the result.
        metrics: contents of metrics.json.
    """

    root: Path
    metrics: dict[str, Any]

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of what was read, by the option that named it."""
        names = {"--data": "data_fingerprint", "--model": "model_fingerprint", "--start": "start_fingerprint"}
        return {option: self.metrics[name] for option, name in names.items() if self.metrics.get(name)}

    @property
    def predict(self) -> str:
        """The command that predicts with the head."""
        dtype = f" --dtype {self.metrics['dtype']}" if self.metrics.get("dtype") else ""
        return f"raypipe predict FILE --heads {shlex.quote(str(self.root))}{dtype}"

    def table(self) -> str:
        """Parts and their figures, a guess that looks at no sequence below each."""
        parts = self.metrics["parts"]
        names = [name for name in dict.fromkeys(key for part in parts.values() for key in part) if name not in _HIDDEN]
        rows = [["part", *names]]
        for part, figures in parts.items():
            rows.append([part, *(_cell(figures.get(name)) for name in names)])
            if figures.get("baseline"):
                rows.append(["  (guess)", *(_cell(figures["baseline"].get(name)) for name in names)])
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines) + "\n"


def read_report(root: Path) -> Report:
    """The report of a finished run.

    Raises:
        RaypipeError: its file is damaged.
    """
    try:
        return Report(root, json.loads((root / METRICS).read_text(encoding="utf-8")))
    except ValueError as error:
        raise RaypipeError(f"{root / METRICS}: is damaged ({error}); make the result anew") from error


def readme(report: Report, command: str) -> str:
    """README.md of a result."""
    about = report.metrics
    labels = ", ".join(about["labels"][:30]) + (" ..." if len(about["labels"]) > 30 else "")
    trunk = {
        "frozen": "The trunk was left as it is.",
        "lora": "The trunk was changed by LoRA; `model/` holds it merged, with the head in its folder `heads/`.",
        "full": "The trunk was trained as well; `model/` holds it, with the head in its folder `heads/`.",
    }[about["method"]]
    chosen = f" chosen by {about['metric']} on valid" if about["best_epoch"] and "valid" in about["parts"] else ""
    threshold = "" if about["threshold"] is None else f" Threshold: {about['threshold']:g}."
    return (
        f"# {about['name']}: a {about['problem']} {about['task']} head for {about['model']}\n\n"
        f"Labels: {labels} (column{'s' if len(about['columns']) > 1 else ''} {', '.join(about['columns'])}). {trunk}\n"
        f"Epoch {about['best_epoch']} of {about['epochs']}{chosen}.{threshold}\n\n"
        f"    {report.predict}\n\n## Figures\n\n"
        + "".join(f"    {line}\n" for line in report.table().splitlines())
        + "\nMeasured on the predictions of the finished head. `n` counts what is labelled: sequences, nucleotides or\n"
        "pairs. A guess says the same of every sequence: how often each class is in train, or the mean of its values.\n"
        f"Standard errors are over sequences, drawn again. Parts by: {about['split_by']}.\n"
        + "".join(f"\n- {line}\n" for line in about["cautions"])
        + f"\n## How it was made\n\n    {command}\n\n"
        "All settings are in settings.json, which `--config` reads. metrics.jsonl has a line for every epoch,\n"
        "metrics.json all figures, predictions.parquet and predictions.tsv what the head says of the sequences held\n"
        "out, rejects.tsv the rows that were not used and why.\n"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
