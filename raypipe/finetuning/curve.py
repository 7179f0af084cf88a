"""A picture of a training: loss and the figure that was watched, by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_curve(path: Path, history: Sequence[dict[str, Any]], metric: str, best_epoch: int, title: str) -> None:
    """Draw it.

    Args:
        path: a .png file.
        history: lines of metrics.jsonl.
        metric: what the best epoch was chosen by.
        best_epoch: is marked.
        title: stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    measured = [line for line in history if "valid" in line]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if measured and metric != "loss" else 1, squeeze=False)[0]
    axes[0].plot(epochs, [line["loss"] for line in history], marker=".", label="train")
    if measured:
        axes[0].plot([m["epoch"] for m in measured], [m["valid"]["loss"] for m in measured], marker=".", label="valid")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    if len(axes) > 1:
        values = [math.nan if m["valid"][metric] is None else m["valid"][metric] for m in measured]
        axes[1].plot([m["epoch"] for m in measured], values, marker=".", color="tab:green")
        axes[1].set_ylabel(f"{metric} (valid)")
    for one in axes:
        one.set_xlabel("epoch")
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.axvline(best_epoch, color="0.7", linewidth=1, zorder=0)
        one.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120, metadata={"Software": None})
