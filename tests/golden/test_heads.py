"""Task heads and their losses against multimolecule 0.0.8, on the modules themselves.

Differences are measured against the largest absolute value of the reference, as in test_model.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import model
from model.head_config import HeadConfig, Kind
from model.heads import make_head
from model.keymap import HEAD_PREFIXES
from model.losses import fit_labels, infer_problem, loss_terms

BOUND = 1e-5
CASES: dict[str, Kind] = {
    "sequence-binary": "sequence",
    "sequence-multiclass": "sequence",
    "sequence-multilabel": "sequence",
    "sequence-regression": "sequence",
    "token-multiclass": "token",
    "token-regression": "token",
    "contact-binary": "contact",
    "secondary-structure": "structure",
}


def _head(folder: Path, kind: Kind) -> Any:
    settings = json.loads((folder / "config.json").read_text())
    prefix = HEAD_PREFIXES[kind]
    tensors = {
        name.removeprefix(prefix): value
        for name, value in load_file(folder / "model.safetensors").items()
        if name.startswith(prefix)
    }
    config = HeadConfig.from_multimolecule(settings, kind, where=str(folder))
    head = make_head(config, settings["hidden_size"])
    head.load_state_dict(tensors, strict=True)
    return head.eval()


def _inputs(folder: Path, kind: Kind) -> tuple[list[str], list[torch.Tensor]]:
    """What the head reads of every sequence: its pooled vector, or the states of its nucleotides."""
    texts = json.loads((folder / "sequences.json").read_text())["sequences"]
    loaded = model.load(folder)
    rows = loaded.pooler_output(texts) if kind == "sequence" else [x[1:-1] for x in loaded.encode(texts)]
    return texts, [torch.from_numpy(row) for row in rows]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_loss(shared: Path, name: str, grad: bool) -> None:
    folder, kind = shared / "golden" / name, CASES[name]
    expected = load_file(folder / "expected.safetensors")
    texts, inputs = _inputs(folder, kind)
    head = _head(folder, kind)
    with torch.set_grad_enabled(grad):
        logits = [head(x) for x in inputs]
    reference = expected["logits"]
    if kind == "structure":
        reference = reference[..., 0]
    assert len(logits) == len(reference)
    for ours, theirs in zip(logits, reference, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).detach().abs().max()) <= BOUND * float(reference.abs().max())

    assert ("loss" in expected) == (kind != "structure")
    if "loss" not in expected:
        return
    shapes = [(len(text),) * {"sequence": 0, "token": 1}.get(kind, 2) for text in texts]
    problem = head.config.problem
    rows = fit_labels(expected["labels"], shapes, head.config, problem)
    terms = [loss_terms(x, row, problem) for x, row in zip(logits, rows, strict=True)]
    loss = float(sum(total.detach() for total, _ in terms)) / float(sum(count for _, count in terms))
    assert loss == pytest.approx(float(expected["loss"]), rel=BOUND)


@pytest.mark.parametrize("name", [name for name in CASES if name != "secondary-structure"])
def test_the_labels_alone_tell_the_problem(shared: Path, name: str) -> None:
    folder, kind = shared / "golden" / name, CASES[name]
    labels = load_file(folder / "expected.safetensors")["labels"]
    known = _head(folder, kind).config
    assert infer_problem(labels, HeadConfig(kind, None, known.num_labels)) == known.problem == name.split("-")[1]


def test_every_case_of_a_task_head_is_looked_at(shared: Path) -> None:
    found = {path.name for path in (shared / "golden").iterdir() if path.is_dir()}
    others = {"base", "masked-lm"} | {name for name in found if name.startswith("genbio_")}
    assert found - others == set(CASES)


def test_the_bound_would_notice_other_arithmetic(shared: Path) -> None:
    """The structure head with the two halves of its projection in each other's place."""
    folder = shared / "golden" / "secondary-structure"
    reference = load_file(folder / "expected.safetensors")["logits"][0, ..., 0]
    head, states = _head(folder, "structure"), _inputs(folder, "structure")[1][0]
    with torch.inference_mode():
        right = head(states)
        weight = head.projection.weight
        weight.copy_(torch.stack([weight[:, 1::2], weight[:, 0::2]], dim=-1).flatten(1))
        swapped = head(states)
    size = float(reference.abs().max())
    assert float((right - reference).abs().max()) <= BOUND * size
    assert float((swapped - reference).abs().max()) > 100 * BOUND * size
    assert swapped.isfinite().all()
