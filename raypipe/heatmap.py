"""A picture of variant effects: positions along, nucleotides down, colour for the difference of log-probabilities."""

from __future__ import annotations

import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raypipe.answer_files import replacing
from raypipe.errors import RaypipeError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
LONGEST = 10_000
"""Nucleotides of the longest picture: it is 11 feet tall, and PDF readers stop at 16."""

LETTERS = "ACGU"
WRAP = 80  # positions of one row
CELL = 0.15  # inches, as all lengths that follow
LEFT, RIGHT, TOP, BOTTOM = 0.65, 0.35, 0.5, 1.15
TITLE_LINE = 0.2
TITLE_LETTER = 0.09  # about the width of one in the title
GAP = 0.5  # between rows: position numbers below one, letters above the next
ROW = len(LETTERS) * CELL + GAP
NARROWEST = 4.8  # room for the colour bar and its name
DPI = 150


class Effects(Protocol):
    """What is drawn; `model.scoring.VariantEffects` is one."""

    @property
    def sequence(self) -> str:
        """L letters."""
        ...

    @property
    def scores(self) -> np.ndarray:
        """(L, 4), log p(variant) - log p(reference) of A, C, G, U; NaN where nothing is known."""
        ...


def check_heatmap(path: Path) -> None:
    """Refuse what `write_heatmap` could not write, before any time is spent on the scores.

    Raises:
        UsageError: the name does not end in .png, .svg or .pdf.
        RaypipeError: matplotlib is not installed.
    """
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise UsageError(f"{path}: a picture's name ends in {', '.join('.' + name for name in FORMATS)}; choose one")
    if find_spec("matplotlib") is None:
        raise RaypipeError("pictures need matplotlib, which is not installed: pip install 'raypipe[plot]'")


def write_heatmap(effects: Effects, path: Path, title: str) -> None:
    """Draw variant effects into one picture, wrapped into rows of 80 positions.

    Blue variants are likelier than the reference, red ones less likely, white is no difference; both arms of the scale
    have one length, that of the largest difference, and the colours (ColorBrewer RdBu) are told apart by colour-blind
    people. The letters of the sequence stand above the columns, a dot in their cells; rows without scores are grey.

    Args:
        effects: sequence and scores.
        path: where to; its ending chooses PNG, SVG or PDF. The file is whole or absent, an old one is replaced.
        title: stands above the picture, in up to three lines.

    Raises:
        UsageError: another ending, or no or too many nucleotides for a picture.
        RaypipeError: no matplotlib, or the file cannot be written.
    """
    check_heatmap(path)
    length = len(effects.sequence)
    if effects.scores.shape != (length, len(LETTERS)):
        raise ValueError(f"scores of shape {effects.scores.shape} for a sequence of {length} nucleotides")
    if not 0 < length <= LONGEST:
        raise UsageError(
            f"{path}: a heat map shows 1 to {LONGEST:,} nucleotides, not {length:,}; take the table of variants instead"
        )
    figure = _draw(effects.sequence, effects.scores, title)
    with replacing(path) as picture:
        figure.savefig(picture, format=path.suffix.lower().removeprefix("."), dpi=DPI)


def _draw(sequence: str, scores: np.ndarray, title: str) -> Figure:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    columns = min(len(sequence), WRAP)
    rows = -(-len(sequence) // WRAP)
    width = max(LEFT + columns * CELL + RIGHT, NARROWEST)
    lines = textwrap.wrap(title, int((width - LEFT) / TITLE_LETTER), max_lines=3, placeholder=" ...")
    top = TOP + TITLE_LINE * len(lines)
    height = top + rows * ROW - GAP + BOTTOM
    # A figure of its own, not pyplot's: no state is shared, no window system is looked for.
    figure = Figure(figsize=(width, height))
    largest = np.abs(scores[np.isfinite(scores)]).max(initial=0.0)
    scale = Normalize(-(largest or 1.0), largest or 1.0)
    colours = colormaps["RdBu"].with_extremes(bad="0.8")
    image = None
    for row in range(rows):
        start = row * WRAP
        part = slice(start, min(start + WRAP, len(sequence)))
        across = (part.stop - start) * CELL
        bottom = height - top - row * ROW - len(LETTERS) * CELL
        axes = figure.add_axes((LEFT / width, bottom / height, across / width, len(LETTERS) * CELL / height))
        shown = np.ma.masked_invalid(scores[part].T)
        image = axes.imshow(shown, cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
        _label(axes, sequence[part], start)
    figure.text(LEFT / width, 1 - 0.2 / height, "\n".join(lines), fontsize=10, va="top", parse_math=False)
    figure.text(LEFT / width, 0.1 / height, "dot: the letter of the sequence; grey: not scored", fontsize=7)
    bar = figure.add_axes((LEFT / width, 0.6 / height, min(3.2, width - LEFT - RIGHT) / width, 0.11 / height))
    assert image is not None
    figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7)
    bar.set_xlabel("log p(variant) - log p(reference)", fontsize=8)
    return figure


def _label(axes: Axes, letters: str, start: int) -> None:
    """Name the lines and number the columns of one row; mark the letters of the sequence."""
    axes.set_yticks(range(len(LETTERS)), list(LETTERS), fontsize=7)
    last = start + len(letters)
    numbered = [p for p in range(start + 1, last + 1) if p % 10 == 0 or p == start + 1]
    axes.set_xticks([p - start - 1 for p in numbered], [f"{p}" for p in numbered], fontsize=7)
    axes.tick_params(length=2, pad=2)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
    for column, letter in enumerate(letters):
        axes.text(column, -0.65, letter, fontsize=7, ha="center", va="bottom", parse_math=False)
    dots = [(column, LETTERS.index(letter)) for column, letter in enumerate(letters) if letter in LETTERS]
    if dots:
        axes.plot(*zip(*dots, strict=True), linestyle="", marker="o", markersize=2, color="black")
