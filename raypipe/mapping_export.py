"""The folder of a map: the page of the embedding-atlas package, which is files only, with our table beside it.

index.html, assets/, duckdb-wasm/   the package's own page, which asks no other machine
data/dataset.parquet                a row for each point
data/metadata.json                  which column is what
raypipe-map.json                    of which atlas and index it is, and how it was drawn
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe import __version__
from raypipe.errors import RaypipeError
from raypipe.mapping_plain import write_plain

MARK = "raypipe-map.json"
NEEDED = ("embedding_atlas", "umap", "scipy")


def check_destination(folder: Path) -> None:
    """Refuse what could not be written in the end, before any time is spent.

    Raises:
        RaypipeError: the folder holds something else than an older map, or cannot be made; or a package is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RaypipeError(f"maps need {', '.join(missing)}, not installed here: pip install 'raypipe[map]'")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RaypipeError(f"{folder}: is no folder; name another one with --export")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise RaypipeError(f"{folder}: holds something that is no map of raypipe; name a new folder with --export")
    if not folder.absolute().parent.is_dir():
        raise RaypipeError(f"{folder}: no such folder {folder.absolute().parent}; make it, or name another place")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise RaypipeError(f"{folder}: its folder cannot be written to; name another place with --export")


def export(folder: Path, table: pa.Table, settings: dict[str, Any], about: dict[str, Any]) -> int:
    """Write a map under another name, and put it in the place of an older one when it is whole.

    Args:
        table: a row for each point, in the order that neighbours count by.
        settings: "roles" of columns (x, y, text, neighbors), the column of the "color", which may be None, and what the
            page's "charts" are at first.
        about: what is to be known of the map later.

    Returns:
        Bytes of all files.

    Raises:
        RaypipeError: it cannot be written.
    """
    folder = folder.absolute()
    whole = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    older = whole.with_name(f"{whole.name}.older")
    try:
        try:
            _write(whole, table, settings, about)
            size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
            if folder.is_dir():
                folder.rename(older)
            try:
                whole.rename(folder)
            except OSError:
                if older.is_dir():
                    older.rename(folder)
                raise
        finally:
            shutil.rmtree(whole, ignore_errors=True)
            shutil.rmtree(older, ignore_errors=True)
    except OSError as error:
        raise RaypipeError(
            f"{folder}: cannot be written ({error.strerror or error}); make room, or name another"
        ) from error
    return size


def _write(folder: Path, table: pa.Table, settings: dict[str, Any], about: dict[str, Any]) -> None:
    import embedding_atlas
    from embedding_atlas.options import make_embedding_atlas_props

    row = "__row_index__"
    table = table.append_column(row, pa.array(range(table.num_rows), pa.int64()))
    props = make_embedding_atlas_props(row_id=row, **settings["roles"])
    props["defaultChartsConfig"] = settings["charts"]
    shutil.copytree(Path(embedding_atlas.__file__).parent / "static", folder)
    data = folder / "data"
    data.mkdir()
    # As the package's own DataSource.export_to_folder writes it: the page reads the table by DuckDB in the browser.
    metadata = {"props": props, "isStatic": True, "database": {"type": "wasm", "load": True}}
    (data / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    pq.write_table(_readable(table), data / "dataset.parquet", compression="zstd")
    write_plain(folder, table, settings["roles"], settings["color"], about)
    said = {"raypipe": __version__, "embedding_atlas": embedding_atlas.__version__, **about}
    (folder / MARK).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _readable(table: pa.Table) -> pa.Table:
    """DuckDB has no halffloats."""
    halves = [field for field in table.schema if pa.types.is_float16(field.type)]
    for field in halves:
        place = table.schema.get_field_index(field.name)
        table = table.set_column(place, field.name, table[field.name].cast(pa.float32()))
    return table
