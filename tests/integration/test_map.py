"""raypipe map: what it writes, what it refuses, and that a browser shows it with no other machine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from raypipe import mapping, mapping_export
from raypipe.cli import DONE, FAILED, USAGE
from tests.browser import Visit, browsing
from tests.integration.conftest import Cli

for name in ("umap", "embedding_atlas"):
    pytest.importorskip(name, reason="needs umap-learn and embedding-atlas, of the extra map")
# What the browser of a machine without a GPU has to say, and the icon that the package's page has not.
HARMLESS = ("WebGPU", "404")
COLOURS = ["31,119,180", "224,123,0", "44,160,44"]
# How many pixels have which of the colours, as they are mixed with the ground; and where the first point is.
PAINTED = """() => { const map = document.getElementById('map'), found = {};
  const plain = [[31,119,180],[224,123,0],[44,160,44]];
  const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);
  for (let at = 0; at < data.length; at += 4) for (const color of plain)
    if (data[at + 3] > 150 && color.every((part, n) => Math.abs(part - data[at + n]) < 4))
      found[color] = (found[color] ?? 0) + 1;
  return found; }"""
FIRST_POINT = """async () => { const { x, y } = await (await fetch('data/points.json')).json();
  const map = document.getElementById('map'), { left, top, width, height } = map.getBoundingClientRect();
  const span = (v) => [Math.min(...v), Math.max(...v)], [a, b] = span(x), [c, d] = span(y);
  const scale = Math.min(.9 * width / (b - a), .9 * height / (d - c));
  return [left + width / 2 + (x[0] - (a + b) / 2) * scale, top + height / 2 + ((c + d) / 2 - y[0]) * scale]; }"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def shown(folder: Path) -> Iterator[str]:
    """A folder behind Python's own web server; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_map_in_the_browser(atlas: Path, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "map"
    made = cli("map", atlas, "--export", folder, "--color", "FAMILY")
    assert (made.code, made.out) == (DONE, ""), made.err
    assert "neighbours: the 5 nearest among the points, by index 000001" in made.err
    assert "map: 6 points by PCA; of the 10 nearest of a point 100% are so on the map too" in made.err
    assert made.err.endswith(f"look at it by: python3 -m http.server -b 127.0.0.1 -d {folder} 8000")

    table = pq.read_table(folder / "data/dataset.parquet")
    assert table.column_names[:5] == ["id", "length", "description", "family", "families_rank"]
    hits = cli("search", atlas, "--ids", "t2", "-k", 6, "--columns", "id,score", "--no-header").out.splitlines()
    (row,) = (place for place, name in enumerate(table["id"].to_pylist()) if name == "t2")
    near = table["__neighbors"][row].as_py()
    assert [table["id"][place].as_py() for place in near["ids"]] == [hit.split("\t")[0] for hit in hits[1:]]
    wanted = [1 - float(hit.split("\t")[1]) for hit in hits[1:]]
    np.testing.assert_allclose(near["distances"], wanted, atol=2e-6)
    assert "t1 first tRNA" in table["__text"].to_pylist()
    about = json.loads((folder / "raypipe-map.json").read_text())
    assert (about["atlas"], about["color"], about["points"]) == ("atlas", "FAMILY", 6)
    assert about["kept"] == 1.0

    with browsing() as browser, shown(folder) as address:
        visit = Visit(browser)
        visit.page.goto(address)
        expect(visit.page.get_by_text("6 / 6 points")).to_be_visible()
        expect(visit.page.locator("canvas").first).to_be_attached()
        # Coloured by the families: their names are in the legend, with how many there are.
        expect(visit.page.get_by_text("tRNA", exact=True).first).to_be_visible()
        expect(visit.page.get_by_text("first tRNA").first).to_be_visible()
        # Where the page has no WebGPU, as here, another one draws the points by plain means.
        page = visit.page
        page.goto(f"{address}plain.html")
        expect(page.locator("canvas[data-drawn]")).to_be_visible()
        expect(page.get_by_role("heading", name="Map of atlas")).to_be_visible()
        expect(page.locator("#legend li")).to_have_text(["tRNA 3", "other 2", "(none) 1"])
        painted = page.evaluate(PAINTED)
        assert {color: number > 20 for color, number in painted.items()} == dict.fromkeys(COLOURS, True)
        page.get_by_label("Find").fill("FIRST")
        expect(page.locator("#found")).to_contain_text("t1 first tRNA")
        page.get_by_label("Find").fill("")
        page.locator("canvas").focus()
        for key in ("+", "ArrowLeft", "-", "0"):
            page.keyboard.press(key)
        x, y = page.evaluate(FIRST_POINT)
        page.mouse.move(x, y)
        expect(page.locator("#told")).to_contain_text(table["id"][0].as_py())
        visit.context.close()
    assert visit.strangers == set()
    assert [said for said in visit.failures if not any(word in said for word in HARMLESS)] == []


def test_by_the_graph_with_a_filter_and_a_sample(
    atlas: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "map"
    assert cli("neighbors", atlas, "-k", 10).code == DONE
    whole = cli("map", atlas, "--export", folder)
    assert whole.code == DONE, whole.err
    assert "neighbours: the 10 nearest of the graph by raypipe neighbors" in whole.err
    by_graph = pq.read_table(folder / "data/dataset.parquet")

    # The same place is written again, whole; and the neighbours are the same where they are searched.
    assert cli("remove", atlas, "--ids", "u1").code == DONE
    again = cli("map", atlas, "--export", folder)
    assert (again.code, "5 points by PCA" in again.err) == (DONE, True), again.err
    assert "the 4 nearest among the points" in again.err
    searched = pq.read_table(folder / "data/dataset.parquet")
    (gone,) = set(by_graph["id"].to_pylist()) - set(searched["id"].to_pylist())
    assert gone == "u1"
    assert list(tmp_path.glob(".map*")) == []

    some = cli("map", atlas, "--export", folder, "--where", "family = 'tRNA'", "--color", "family")
    assert (some.code, "map: 3 points by PCA" in some.err) == (DONE, True), some.err
    drawn = cli("map", atlas, "--export", folder, "--sample", 3, "--color", "family")
    assert (drawn.code, "map: 3 points of 5 by PCA" in drawn.err) == (DONE, True), drawn.err
    # Each of tRNA, other and none has one, though three of the five are tRNA.
    assert sorted(map(str, pq.read_table(folder / "data/dataset.parquet")["family"].to_pylist())) == [
        "None",
        "other",
        "tRNA",
    ]
    monkeypatch.setattr(mapping, "MOST", 4)
    many = cli("map", atlas, "--export", folder)
    assert (many.code, "5 sequences are more than a map can show (4): give --sample" in many.err) == (USAGE, True)
    assert cli("map", atlas, "--export", folder, "--sample", 9).code == USAGE
    assert "map: 2 points" in cli("map", atlas, "--export", folder, "--sample", 2).err


def test_refusals(atlas: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    for folder, said in (
        (own, "holds something that is no map of raypipe"),
        (own / "thesis.txt", "is no folder"),
        (tmp_path / "no" / "map", "no such folder"),
    ):
        refused = cli("map", atlas, "--export", folder)
        assert (refused.code, said in refused.err) == (FAILED, True), refused.err
    assert (own / "thesis.txt").read_text() == "years of work"
    folder = tmp_path / "map"
    for options, code, said in (
        (["--color", "nonsense"], FAILED, "no column 'nonsense'"),
        (["--color", "score"], USAGE, "points are no hits"),
        (["--where", "family = 'none'"], FAILED, "no sequence to draw meets"),
        (["--where", "nonsense"], FAILED, "no column"),
        (["--sample", "0"], USAGE, "--sample 0"),
    ):
        refused = cli("map", atlas, "--export", folder, *options)
        assert (refused.code, said in refused.err) == (code, True), (options, refused.err)
    assert cli("map", atlas).code == USAGE
    assert not folder.exists()

    # An older map stays what it was when a newer one cannot be finished.
    folder.mkdir()
    assert cli("map", atlas, "--export", folder).code == DONE
    before = (folder / "raypipe-map.json").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mapping_export.pq, "write_table", full)
        refused = cli("map", atlas, "--export", folder)
    assert (refused.code, "cannot be written (No space left on device)" in refused.err) == (FAILED, True)
    assert (folder / "raypipe-map.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir() if "map" in path.name) == ["map"]

    monkeypatch.setattr(mapping_export, "find_spec", lambda name: None if name == "umap" else object())
    bare = cli("map", atlas, "--export", folder)
    assert (bare.code, bare.err) == (FAILED, "raypipe: maps need umap, not installed here: pip install 'raypipe[map]'")
