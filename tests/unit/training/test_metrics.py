"""Sums, means and the file of metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raypipe.errors import InputError
from raypipe.training import metrics
from raypipe.training.curve import draw_curve
from raypipe.training.metrics import Follower, Sums, means


def test_sums_of_tensors_and_numbers() -> None:
    sums = Sums({"mlm": 1.0})
    sums.add({"mlm": torch.tensor(2.0), "steps": 1.0})
    sums.add({"mlm": torch.tensor(0.5), "steps": 1.0})
    assert sums.values() == {"mlm": 3.5, "steps": 2.0}
    sums.add({"mlm": torch.tensor(1.0)})
    assert sums.values() == {"mlm": 4.5, "steps": 2.0}


def test_means() -> None:
    found = means({"mlm": 6.0, "right": 1.0, "asked": 4.0, "contrastive": 3.0, "nearest": 1.0, "views": 2.0})
    assert found == {
        "mlm_loss": 1.5,
        "masked_accuracy": 0.25,
        "contrastive_loss": 1.5,
        "nearest_in_family": 0.5,
    }
    assert means({"tokens": 5.0, "asked": 0.0}) == {}


def test_what_came_after_the_state_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics.cut(path, 3)
    assert not path.exists()
    for step in range(1, 6):
        metrics.append(path, {"step": step})
    metrics.append(path, {"step": 3, "valid": {}})
    with path.open("a") as file:
        file.write('{"step": 6, "mlm')
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3, 4, 5, 3]
    metrics.cut(path, 3)
    assert path.read_text().splitlines() == [json.dumps(line) for line in metrics.read(path)]
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3, 3]


@pytest.mark.parametrize("line", [b"nothing", b"7", b'{"mlm_loss": 1.0}', b'{"step": null}', b'{"note": "\xff"}', b""])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match=f"{path}: line 2 is damaged .* take it out, or remove the file"):
        metrics.read(path)


def test_without_any_line_there_is_a_curve_all_the_same(tmp_path: Path) -> None:
    """The damaged lines may have been all of them."""
    draw_curve(tmp_path / "curve.png", [], "nothing")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_follower_tells_everything_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"step": 1})
    follower = Follower(path)
    assert follower.new() == []
    metrics.append(path, {"step": 2})
    metrics.append(path, {"step": 2, "valid": {}})
    with path.open("a") as file:
        file.write('{"step": ')
    assert follower.new() == [{"step": 2}, {"step": 2, "valid": {}}]
    with path.open("a") as file:
        file.write("3}\n")
    assert follower.new() == [{"step": 3}]
    # A worker died: the next one begins from the state of step 1, and repeats what was told.
    metrics.cut(path, 1)
    assert follower.new() == []
    for step in (2, 3, 4):
        metrics.append(path, {"step": step})
    assert follower.new() == [{"step": 4}]
    metrics.append(path, {"step": 4, "note": "on other hardware"})
    assert follower.new() == [{"step": 4, "note": "on other hardware"}]


def test_a_follower_waits_for_its_file(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "metrics.jsonl")
    assert follower.new() == []
    metrics.append(tmp_path / "metrics.jsonl", {"step": 1})
    assert follower.new() == [{"step": 1}]
