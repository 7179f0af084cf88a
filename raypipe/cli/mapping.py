"""raypipe map: the atlas as points in a plane, for a browser."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raypipe.cli.making import AtlasPath
from raypipe.cli.progress import say


def make_map(
    atlas: AtlasPath,
    *,
    export: Annotated[
        Path, Parameter(help="Folder to write: a new or empty one, or that of an older map, which it replaces.")
    ],
    color: Annotated[
        str | None, Parameter(help="Column of hits that colours the points, such as rna_type or a prediction.")
    ] = None,
    where: Annotated[
        str | None, Parameter(help="SQL condition that sequences must meet, e.g. \"rna_type = 'tRNA'\".")
    ] = None,
    sample: Annotated[
        int | None,
        Parameter(help="Draw so many sequences, rare values of --color more than their share. By default all."),
    ] = None,
) -> None:
    """Write a map of an atlas: a folder of files that any web server shows, and that asks no other machine.

    Points lie near each other where the index finds their sequences near. Needs pip install 'raypipe[map]'.
    """
    from index.store import Store
    from raypipe.mapping import make_map as write_map
    from raypipe.mapping_projection import JUDGED

    made = write_map(Store.open(atlas), export, color=color, where=where, sample=sample, tell=say)
    drawn = f"{made.points:,} points" + (f" of {made.candidates:,}" if made.points < made.candidates else "")
    kept = "" if made.kept is None else f"; of the {JUDGED} nearest of a point {made.kept:.0%} are so on the map too"
    say(f"map: {drawn} by {made.method}{kept}")
    say(f"{export}: {made.bytes / 1e6:,.0f} MB; its plain.html shows the points where a browser has no WebGPU")
    say(f"look at it by: {_command(export)}")


def _command(folder: Path) -> str:
    return shlex.join(["python3", "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder), "8000"])
