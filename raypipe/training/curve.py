"""A picture of a pre-training: losses, accuracies and the learning rate by step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index import files
from raypipe.errors import RaypipeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "mlm_loss": "masked-LM loss (nats)",
    "masked_accuracy": "accuracy over A, C, G, U",
    "contrastive_loss": "contrastive loss (nats)",
    "nearest_in_family": "nearest view is of the family",
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradient, before clipping",
}
SIZE = (4.2, 2.9)
"""Of a panel, in inches."""


def check_curve() -> None:
    """Say before the training, not after it, that it could not be drawn.

    Raises:
        RaypipeError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise RaypipeError("the curve of a training needs matplotlib, which is not installed: pip install matplotlib")


def draw_curve(path: Path, lines: Sequence[dict[str, Any]], title: str) -> None:
    """Draw it; the file appears whole or not at all.

    Args:
        path: a .png file.
        lines: of metrics.jsonl.
        title: stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in PANELS if any(name in line for line in lines)]
    # At least an empty one: somebody may have removed damaged lines.
    columns = max(1, min(len(shown), 3))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.remove()
    for axes, name in zip(panels, shown, strict=False):
        _panel(axes, name, lines)
    figure.suptitle(title)
    with files.atomic(path, path.parent) as draft:
        figure.savefig(draft, format="png", dpi=120, metadata={"Software": None})


def _panel(axes: Axes, name: str, lines: Sequence[dict[str, Any]]) -> None:
    train = [(line["step"], line[name]) for line in lines if name in line]
    valid = [(line["step"], line["valid"][name]) for line in lines if name in line.get("valid", {})]
    axes.plot(*zip(*train, strict=True), linewidth=1, label="train")
    if valid:
        axes.plot(*zip(*valid, strict=True), marker=".", label="valid")
        axes.legend(frameon=False)
    axes.set_title(PANELS[name], fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
