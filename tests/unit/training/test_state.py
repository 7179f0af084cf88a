"""States: exact, the last two, and clear words about damaged or foreign ones."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from index import files
from model.encoder import AidoRna
from model.training import init_weights
from raypipe.errors import InputError, RaypipeError
from raypipe.training.schedule import make_optimizer
from raypipe.training.start import find_start
from raypipe.training.state import load_state, save_state
from raypipe.training.state_files import latest_state, states, step_of
from tests.pretraining import small


def trained(seed: int = 0, **shape: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
    """Weights and an optimizer that have taken a step."""
    encoder = AidoRna(find_start(small(**shape)).config, lm_head=True)
    init_weights(encoder, seed)
    weights = dict(encoder.named_parameters())
    optimizer = make_optimizer(weights, small())
    torch.manual_seed(seed)
    for value in weights.values():
        value.grad = torch.randn_like(value)
    optimizer.step()
    return weights, optimizer


def test_roundtrip_is_exact(tmp_path: Path) -> None:
    weights, optimizer = trained()
    about = {"tokens": 17, "seconds": 0.1, "window": {"mlm": 1 / 3}}
    save_state(tmp_path, 12, weights, optimizer, about)
    others, other = trained(seed=1)
    path = latest_state(tmp_path)
    assert path is not None
    assert load_state(path, others, other) == (12, about)
    for name, value in weights.items():
        assert torch.equal(others[name], value), name
        for moment, kept in optimizer.state[value].items():
            assert torch.equal(other.state[others[name]][moment], kept), (name, moment)
    for both in ((weights, optimizer), (others, other)):
        for value in both[0].values():
            value.grad = torch.ones_like(value)
        both[1].step()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_last_two_are_kept_in_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 99_999_999, 100_000_000):
        save_state(tmp_path, step, *trained(), {})
    assert [step_of(path) for path in states(tmp_path)] == [99_999_999, 100_000_000]
    # What somebody put beside them is no state, and stays.
    (tmp_path / "step-best.safetensors").write_text("mine")
    save_state(tmp_path, 100_000_001, *trained(), {}, keep=1)
    assert [step_of(path) for path in states(tmp_path)] == [100_000_001]
    assert (tmp_path / "step-best.safetensors").exists()


def test_a_state_and_its_name_are_durable_before_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut at any moment there is a whole state."""
    save_state(tmp_path, 1, *trained(), {})
    synced: list[tuple[str, list[int]]] = []
    sync = files.sync

    def watched(path: Path) -> None:
        synced.append((path.name, [step_of(each) for each in states(tmp_path)]))
        sync(path)

    monkeypatch.setattr(files, "sync", watched)
    save_state(tmp_path, 2, *trained(), {}, keep=1)
    assert synced == [(".draft", [1]), (tmp_path.name, [1, 2])]
    assert [step_of(path) for path in states(tmp_path)] == [2]


@pytest.mark.parametrize("keep", [0, 7, 100, -3])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    save_state(tmp_path, 1, *trained(), {})
    (path,) = states(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"{path}: is damaged \(.*\); remove it, and the run goes on from the one be"):
        load_state(path, *trained())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_state(tmp_path, 1, *trained(), {})
    (path,) = states(tmp_path)
    with pytest.raises(InputError, match=r"embedding.weight has the shape \[26, 16\], this model \[26, 32\]"):
        load_state(path, *trained(hidden_size=32))
    with pytest.raises(InputError, match="is the state of another model"):
        load_state(path, *trained(num_layers=2))


def test_a_full_disk_leaves_the_states_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, 1, *trained(), {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(RaypipeError, match=r"the disk is full .* run the same command again: it goes on where it sto"):
        save_state(tmp_path, 2, *trained(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
