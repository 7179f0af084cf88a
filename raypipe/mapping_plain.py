"""The plain page of a map: points on a canvas, for browsers without WebGPU, which the page of embedding-atlas needs."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FILES = ("plain.html", "plain.js", "plain.css")
KINDS = 10  # colours, that of all others included
OTHERS, NONE = "(others)", "(none)"


def write_plain(
    folder: Path, table: pa.Table, roles: Mapping[str, str], color: str | None, about: Mapping[str, Any]
) -> None:
    """Put the page into `folder`, and what it shows into its data/points.json.

    Args:
        table: a row for each point.
        roles: the columns "x", "y" and "text".
        color: column of the colour.
        about: the "atlas", the "projection", and how many nearest neighbours it "kept".
    """
    for name in FILES:
        shutil.copy(Path(__file__).parent / "mapping_page" / name, folder)
    kinds, names = number_kinds(table[color]) if color is not None else ([], [])
    kept = "" if about["kept"] is None else f"; {about['kept']:.0%} of nearest neighbours are so here too"
    points = {
        "atlas": about["atlas"],
        "about": f"{table.num_rows:,} points by {about['projection']}{kept}",
        "color": color,
        "x": [round(value, 4) for value in table[roles["x"]].to_pylist()],
        "y": [round(value, 4) for value in table[roles["y"]].to_pylist()],
        "text": table[roles["text"]].to_pylist(),
        "kind": kinds,
        "kinds": names,
        "others": names.index(OTHERS) if OTHERS in names else None,
    }
    (folder / "data" / "points.json").write_text(json.dumps(points, separators=(",", ":")), encoding="utf-8")


def number_kinds(column: pa.ChunkedArray) -> tuple[list[int], list[str]]:
    """The kinds that are told apart by colour: frequent values, or ranges of numbers that are many.

    Returns:
        The number of its kind for each row, and the names of kinds, the most frequent first, or the lowest.
    """
    values = column.to_pylist()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = [value if value is not None and math.isfinite(value) else None for value in values]
        known = [value for value in values if value is not None]
        if len(set(known)) > KINDS:
            edges = np.unique(np.quantile(known, np.linspace(0, 1, KINDS - 1)))
            # As short as tells them apart.
            digits = next(n for n in range(6, 18) if len({f"{edge:.{n}g}" for edge in edges}) == len(edges))
            spans = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(edges)]
            places = np.searchsorted(edges[1:-1], [edges[0] if value is None else value for value in values], "right")
            in_span = zip(values, places.tolist(), strict=True)
            return _numbered([NONE if value is None else spans[place] for value, place in in_span], spans)
    named = [NONE if value is None else str(value) for value in values]
    frequent = [name for name, _ in Counter(named).most_common()]
    if len(frequent) <= KINDS:
        return _numbered(named, frequent)
    kept = frequent[: KINDS - 1]
    return _numbered([name if name in kept else OTHERS for name in named], [*kept, OTHERS])


def _numbered(values: list[str], names: list[str]) -> tuple[list[int], list[str]]:
    """The place of each value in `names`, with a last one for what has no value."""
    named = [*names, NONE] if NONE in values and NONE not in names else names
    numbers = {name: number for number, name in enumerate(named)}
    return [numbers[value] for value in values], named
