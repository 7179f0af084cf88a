"""The picture of variant effects: a real file of the right size, with the right colours in the right cells."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from raypipe import heatmap
from raypipe.errors import RaypipeError, UsageError
from raypipe.heatmap import LETTERS, check_heatmap, write_heatmap


@dataclass
class Drawn:
    sequence: str
    scores: np.ndarray


def random_effects(length: int, unknown: tuple[int, ...] = ()) -> Drawn:
    rng = np.random.default_rng(length)
    letters = rng.choice(list(LETTERS), length)
    scores = rng.normal(0, 2, (length, 4)).astype(np.float32)
    scores[range(length), [LETTERS.index(letter) for letter in letters]] = 0
    for position in unknown:
        letters[position] = "N"
        scores[position] = np.nan
    return Drawn("".join(letters), scores)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


def cell(picture: np.ndarray, position: int, letter: str) -> tuple[float, float, float]:
    """Colour near a corner of one cell (a dot may stand in its middle), by the measures of the layout, one title line.

    Args:
        picture: (height, width, 4), as read from the PNG.
        position: column, from 0.
        letter: line.
    """
    row, column = divmod(position, heatmap.WRAP)
    x = heatmap.LEFT + (column + 0.2) * heatmap.CELL
    y = heatmap.TOP + heatmap.TITLE_LINE + row * heatmap.ROW + (LETTERS.index(letter) + 0.2) * heatmap.CELL
    red, green, blue = picture[int(y * heatmap.DPI), int(x * heatmap.DPI), :3].tolist()
    return red, green, blue


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (80, 1), (81, 2), (200, 3)])
def test_size(tmp_path: Path, length: int, rows: int) -> None:
    write_heatmap(random_effects(length), tmp_path / "a.png", "one line")
    width, height = size(tmp_path / "a.png")
    inches = heatmap.LEFT + min(length, 80) * heatmap.CELL + heatmap.RIGHT
    assert width == pytest.approx(max(inches, heatmap.NARROWEST) * heatmap.DPI, abs=1)
    without_rows = heatmap.TOP + heatmap.TITLE_LINE - heatmap.GAP + heatmap.BOTTOM
    assert height == pytest.approx((without_rows + rows * heatmap.ROW) * heatmap.DPI, abs=1)


def test_colours(tmp_path: Path) -> None:
    from matplotlib.image import imread

    effects = random_effects(100, unknown=(2, 95))
    effects.scores[:, :] = np.where(np.isnan(effects.scores), np.nan, 0)
    effects.scores[0] = [4, -4, 2, 0]
    effects.scores[99] = [0, -2, 0, 4]
    write_heatmap(effects, tmp_path / "a.png", "title")
    picture = np.asarray(imread(tmp_path / "a.png"))
    for position, letter in ((0, "A"), (0, "G"), (99, "U")):
        red, _, blue = cell(picture, position, letter)
        assert blue > red + 0.2  # likelier
    for position, letter in ((0, "C"), (99, "C")):
        red, _, blue = cell(picture, position, letter)
        assert red > blue + 0.2  # less likely
    # Both arms alike: half the difference is paler than the whole, on either side.
    assert sum(cell(picture, 0, "G")) > sum(cell(picture, 0, "A"))
    assert sum(cell(picture, 99, "C")) > sum(cell(picture, 0, "C"))
    assert min(cell(picture, 50, "A")) > 0.95  # no difference
    for position in (2, 95):
        for letter in LETTERS:
            assert cell(picture, position, letter) == pytest.approx((0.8, 0.8, 0.8), abs=0.01)


@pytest.mark.parametrize("scores", [np.full((3, 4), np.nan), np.zeros((3, 4))])
def test_nothing_to_tell(tmp_path: Path, scores: np.ndarray) -> None:
    write_heatmap(Drawn("NNN", scores), tmp_path / "a.png", "")
    size(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.PDF", b"%PDF-"), ("a.PNG", b"\x89PNG")])
def test_the_ending_chooses_the_format(tmp_path: Path, name: str, start: bytes) -> None:
    title = r"a long title with $ and _ and \n in it, " * 20
    write_heatmap(random_effects(20), tmp_path / name, title)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start)
    if name.endswith("svg"):
        assert b"</svg>" in content
        assert b"log p(variant) - log p(reference)" in content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz", "png"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    for attempt in (
        lambda: check_heatmap(tmp_path / name),
        lambda: write_heatmap(random_effects(3), tmp_path / name, ""),
    ):
        with pytest.raises(UsageError, match=r"ends in \.png, \.svg, \.pdf"):
            attempt()
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way to say that there is none
    with pytest.raises(RaypipeError, match=r"pip install 'raypipe\[plot\]'"):
        check_heatmap(tmp_path / "a.png")


@pytest.mark.parametrize("length", [0, heatmap.LONGEST + 1])
def test_lengths_that_make_no_picture(tmp_path: Path, length: int) -> None:
    with pytest.raises(UsageError, match="1 to 10,000 nucleotides"):
        write_heatmap(Drawn("A" * length, np.zeros((length, 4))), tmp_path / "a.png", "")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="shape"):
        write_heatmap(Drawn("ACG", np.zeros((2, 4))), path, "")
    assert path.read_bytes() == b"old"
    folder = tmp_path / "b.png"
    folder.mkdir()
    with pytest.raises(RaypipeError, match=r"b\.png: cannot be written \(Is a directory\)"):
        write_heatmap(random_effects(3), folder, "")
    with pytest.raises(RaypipeError, match="No such file or directory"):
        write_heatmap(random_effects(3), tmp_path / "absent" / "a.png", "")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.png", "b.png"]
    write_heatmap(random_effects(3), path, "")
    size(path)


def test_drawing_needs_neither_torch_nor_pyplot(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np; import raypipe.heatmap as h\n"
        "assert 'matplotlib' not in sys.modules\n"
        "h.write_heatmap(type('E', (), {'sequence': 'A', 'scores': np.zeros((1, 4))}), Path(sys.argv[1]), '')\n"
        "assert not {'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
