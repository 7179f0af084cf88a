"""Task heads by their definitions; symmetry, gradients, types and memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.head_config import ACTIVATIONS, KINDS, HeadConfig
from model.heads import ACTIVATION, make_head
from model.keymap import HEAD_PREFIXES
from model.structure_head import StructureHead

WIDTH = 12


def _head(config: HeadConfig, seed: int = 3) -> Any:
    """A head with weights large enough for every part of the arithmetic to matter."""
    torch.manual_seed(seed)
    head = make_head(config, WIDTH)
    with torch.no_grad():
        for name, value in head.named_parameters():
            value.copy_(("layer_norm.weight" in name) + 0.4 * torch.randn(value.shape))
    return head.eval()


def _states(length: int, seed: int = 11) -> Tensor:
    return torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(seed))


CONFIGS = [
    HeadConfig("sequence", num_labels=3),
    HeadConfig("sequence", transform="nonlinear", act="sigmoid", bias=False),
    HeadConfig("token", num_labels=4, transform="linear", norm_eps=0.1),
    HeadConfig("token", num_labels=2, transform="nonlinear", transform_act="tanh", norm_eps=0.1),
    HeadConfig("contact", num_labels=3, transform="nonlinear", act="tanh"),
    HeadConfig("contact", bias=False),
    HeadConfig("structure"),
]


def _name(config: HeadConfig) -> str:
    return f"{config.kind}-{config.transform}-{config.num_labels}"


def _read(head: nn.Module, config: HeadConfig, hidden: Tensor) -> np.ndarray:
    """What the last linear map is given, in float64 and by hand."""
    weights = {name: value.detach().double().numpy() for name, value in head.state_dict().items()}
    x = hidden.double().numpy()
    if config.transform is None:
        return x
    x = x @ weights["transform.dense.weight"].T + weights["transform.dense.bias"]
    if config.transform == "nonlinear":
        gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
        x = {"gelu": gelu, "tanh": np.tanh}[config.transform_act](x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_eps)
    return x * weights["transform.layer_norm.weight"] + weights["transform.layer_norm.bias"]


@pytest.mark.parametrize("config", CONFIGS[:-1], ids=_name)
def test_linear_heads_are_their_definition(config: HeadConfig) -> None:
    head, hidden = _head(config), _states(7)
    z = _read(head, config, hidden)
    if config.kind == "contact":
        # The reference's way: all the products first.
        z = z[:, None] * z[None]
    expected = z @ head.decoder.weight.detach().double().numpy().T
    if config.bias:
        expected = expected + head.decoder.bias.detach().double().numpy()
    if config.act is not None:
        expected = {"sigmoid": lambda v: 1 / (1 + np.exp(-v)), "tanh": np.tanh}[config.act](expected)
    logits = head(hidden)
    assert logits.shape == expected.shape
    assert np.abs(logits.detach().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def _structure_by_definition(head: StructureHead, z: Tensor) -> Tensor:
    """The reference's way: interleave, mirror, convolve, all at once and with everything materialised."""
    length = len(z)
    first, second = z[:, None].expand(-1, length, -1), z[None].expand(length, -1, -1)
    pairs = torch.stack([first, second], dim=-1).flatten(-2)
    upper = torch.ones(length, length).triu().bool()[..., None]
    pairs = torch.where(upper, pairs, pairs.transpose(0, 1))
    x = head.projection(pairs).permute(2, 0, 1)[None]
    for block in head.convnet:
        assert isinstance(block, nn.Module)
        y = x
        for k in (1, 2, 3):
            weight = block.get_parameter(f"conv{k}.weight")
            y = F.relu(F.instance_norm(F.conv2d(y, weight, padding=weight.shape[-1] // 2), eps=1e-5))
        x = x + y
    logits = F.conv2d(x, head.prediction.weight, head.prediction.bias, padding=1)[0, 0].triu(1)
    return logits + logits.T


@pytest.mark.parametrize("length", [2, 3, 9, 20])
def test_the_structure_head_is_its_definition_in_blocks_and_with_gradients(length: int) -> None:
    head, hidden = _head(HeadConfig("structure")), _states(length)
    wanted = hidden.clone().requires_grad_()
    expected = _structure_by_definition(head, wanted)
    bound = 2e-5 * expected.abs().max().item()
    with torch.inference_mode():
        for rows in (None, 1, 2, 5, 64):
            assert (head(hidden, rows=rows) - expected).abs().max() <= bound
    given = hidden.clone().requires_grad_()
    logits = head(given)
    assert (logits - expected).abs().max() <= bound
    weights = torch.randn(length, length, generator=torch.Generator().manual_seed(1))
    parameters = list(head.parameters())
    ours = torch.autograd.grad((logits * weights).sum(), [given, *parameters])
    theirs = torch.autograd.grad((expected * weights).sum(), [wanted, *parameters])
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6
    assert any(b.abs().max() > 1e-2 for b in theirs)


def test_a_structure_head_may_learn_in_bfloat16() -> None:
    """Its maps are rounded, so the loss changes a little; weights, gradients, logits and answers are float32."""
    head, hidden = _head(HeadConfig("structure")), _states(20)

    def learned(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        head.learning_dtype = dtype
        given = hidden.clone().requires_grad_()
        logits = head(given)
        found = torch.autograd.grad(logits.square().sum(), [given, *head.parameters()])
        assert {logits.dtype, *(one.dtype for one in found)} == {torch.float32}
        return logits.detach(), torch.cat([one.flatten() for one in found])

    with torch.inference_mode():
        answer = head(hidden)
    exact, rounded = learned(torch.float32), learned(torch.bfloat16)
    for one, other in zip(exact, rounded, strict=True):
        off = float((one - other).norm() / one.norm())
        assert 1e-4 < off < 0.1
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
    # Without gradients nothing changes.
    with torch.inference_mode():
        assert torch.equal(head(hidden), answer)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.kind in ("contact", "structure")], ids=_name)
def test_maps_are_exactly_symmetric(config: HeadConfig) -> None:
    head = _head(config)
    for length in (1, 2, 3, 33):
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                logits = head(_states(length))
            assert logits.shape[:2] == (length, length)
            assert torch.equal(logits, logits.transpose(0, 1))
            if config.kind == "structure":
                assert not logits.diagonal().any()
                assert length == 1 or logits.abs().max() > 0.1
            else:
                assert logits.diagonal().abs().max() > 0.01


@pytest.mark.parametrize("length", [0, 1, 2, 6])
@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_gradients_flow_and_are_finite_at_any_length(config: HeadConfig, length: int) -> None:
    head, hidden = _head(config), _states(length).requires_grad_()
    logits = head(hidden)
    logits.square().sum().backward()
    assert hidden.grad is None or hidden.grad.isfinite().all()
    for name, value in head.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), name
        if length == 6:
            assert value.grad is not None, name
            assert value.grad.any(), name


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_any_type_goes_in_and_float32_is_computed(config: HeadConfig) -> None:
    head, hidden = _head(config), _states(9)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        given = hidden.to(dtype)
        before = given.clone()
        logits = head(given)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, head(given.float()))
        assert torch.equal(given, before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(hidden)
    assert torch.equal(inside, head(hidden))
    assert all(value.dtype == torch.float32 for value in make_head(config, WIDTH).state_dict().values())


@pytest.mark.parametrize("kind", ["sequence", "token", "contact"])
def test_dropout_is_for_training_only(kind: Any) -> None:
    head, hidden = _head(HeadConfig(kind, dropout=0.5)), _states(8)
    plain = _head(HeadConfig(kind))
    assert torch.equal(head(hidden), plain(hidden))
    head.train()
    torch.manual_seed(0)
    assert not torch.equal(head(hidden), head(hidden))
    assert torch.equal(plain.train()(hidden), plain.eval()(hidden))


def test_names_are_multimolecules() -> None:
    # As in its checkpoints, see the golden cases; a transform's as its HeadConfig makes them.
    whole = HeadConfig("token", transform="linear")
    decoder = {"decoder.weight", "decoder.bias"}
    transform = {f"transform.{part}.{leaf}" for part in ("dense", "layer_norm") for leaf in ("weight", "bias")}
    assert set(make_head(whole, WIDTH).state_dict()) == decoder | transform
    assert set(make_head(HeadConfig("contact", bias=False), WIDTH).state_dict()) == {"decoder.weight"}
    shapes = {
        name: tuple(value.shape) for name, value in make_head(HeadConfig("structure"), WIDTH).state_dict().items()
    }
    assert shapes == {
        "projection.weight": (64, 2 * WIDTH),
        "projection.bias": (64,),
        "prediction.weight": (1, 64, 3, 3),
        "prediction.bias": (1,),
    } | {f"convnet.{i}.conv{k}.weight": (64, 64, n, n) for i in (0, 1) for k, n in ((1, 1), (2, 3), (3, 1))}
    assert tuple(HEAD_PREFIXES) == KINDS


def test_every_activation_of_the_settings_is_there() -> None:
    assert tuple(ACTIVATION) == ACTIVATIONS
    x = torch.linspace(-3, 3, 13)
    assert torch.allclose(ACTIVATION["gelu"](x), x * (1 + torch.erf(x / math.sqrt(2))) / 2, atol=1e-6)
    assert not torch.equal(ACTIVATION["gelu"](x), ACTIVATION["gelu_new"](x))
    assert torch.equal(ACTIVATION["linear"](x), x)


def test_fresh_linear_maps_are_small_and_unbiased() -> None:
    torch.manual_seed(0)
    head = make_head(HeadConfig("token", num_labels=50, transform="linear"), 200)
    assert head.get_parameter("decoder.weight").std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.get_parameter("decoder.bias").any()
    assert not head.get_parameter("transform.dense.bias").any()
    assert (head.get_parameter("transform.layer_norm.weight") == 1).all()


def test_convolutions_are_told_to_keep_float32_and_the_setting_is_given_back() -> None:
    cudnn: Any = torch.backends.cudnn
    head, seen = _head(HeadConfig("structure")), []
    head.convnet[0].register_forward_hook(lambda *_: seen.append(cudnn.conv.fp32_precision))
    before = cudnn.conv.fp32_precision
    try:
        for precision in ("tf32", "none"):
            cudnn.conv.fp32_precision = precision
            head(_states(4))
            with pytest.raises(RuntimeError):
                head(torch.zeros(4, WIDTH + 1))
            assert cudnn.conv.fp32_precision == precision
    finally:
        cudnn.conv.fp32_precision = before
    assert seen == ["ieee", "ieee"]


_MEMORY = """
import resource, torch
from model.head_config import HeadConfig
from model.heads import make_head

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

z = torch.randn(1022, 1280)
heads = [make_head(HeadConfig("contact", num_labels=c), 1280).eval() for c in (1, 4)]
structure = make_head(HeadConfig("structure"), 1280).eval()
with torch.inference_mode():
    for head in (*heads, structure):
        head(z[:40])
    print(peak())
    for head in heads:
        head(z)
        print(peak())
    structure(z[:400])
    print(peak())
"""


def test_memory_of_maps(root: Path) -> None:
    """In a process of its own, where nothing else raises the peak; in MiB."""
    # What is freed goes back at once: the allocator's own habits are not what is measured.
    allocator = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    environment = os.environ | allocator | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", _MEMORY], env=environment, capture_output=True, text=True, check=True)
    start, one, four, structure = map(float, done.stdout.split())
    labels = 1022 * 1022 * 4 / 2**20
    # Products of all pairs would be 1280 maps of this size.
    assert one - start < 4 * labels + 30
    assert four - start < 4 * 4 * labels + 30
    # The structure head holds three maps of 64 channels, and what the convolutions of some rows need.
    assert structure - start < 3 * 64 * 400 * 400 * 4 / 2**20 + 60
