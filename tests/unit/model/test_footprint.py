"""Operations and bytes that are computed, against those that torch counts and takes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from model import AidoRnaConfig, registry
from model.attention_training import attend_by_products
from model.encoder import AidoRna, count_parameters
from model.footprint import activation_bytes, flops, linear_flops, weight_bytes
from model.packing import Layout

CONFIG = AidoRnaConfig(num_layers=2, hidden_size=64, num_heads=4, intermediate_size=176)
GIB = 2**30


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once, and keeps the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage()._cdata for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_flatten(out)[0]:
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in before | self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def test_the_card_of_the_model() -> None:
    """Its 168.25 GFLOPs are those of 128 tokens, as are the 415.67 of the larger one."""
    for name, expected in (("aido.rna-650m", 168.25e9), ("aido.rna-1.6b", 415.67e9)):
        assert flops(registry.get(name).config, [128]) == pytest.approx(expected, rel=2e-3)


def test_operations_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "model.products._by_onednn", lambda _: False
    )  # which torch does not count, nor its fused attention
    encoder = AidoRna(CONFIG).join().eval()
    lengths = [40, 40, 7]
    ids = torch.zeros(sum(lengths), dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for _ in encoder.states(ids, Layout.of(lengths), attend_by_products):
            pass
    assert counter.get_total_flops() == flops(CONFIG, lengths)
    assert linear_flops(CONFIG) < flops(CONFIG, [1]) < 1.01 * linear_flops(CONFIG)


@pytest.mark.parametrize("config", [CONFIG, AidoRnaConfig(3, 64, 4, 176, norm="rmsnorm", linear_bias=False)])
def test_bytes_of_weights_are_those_of_the_parameters(config: AidoRnaConfig) -> None:
    assert weight_bytes(config, "float32") == 4 * count_parameters(config)["encoder"]
    assert weight_bytes(config, "bfloat16") == 2 * count_parameters(config)["encoder"]
    assert weight_bytes(config, "bfloat16") <= weight_bytes(config, "float8") < weight_bytes(config, "float32")


@pytest.mark.parametrize("config", [CONFIG, AidoRnaConfig(2, 64, 4, 512)], ids=["turning", "swiglu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_a_batch(config: AidoRnaConfig, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is left out, whose kernel on a CPU has memory of its own."""
    monkeypatch.setattr("model.products._by_onednn", lambda _: False)
    encoder = AidoRna(config).to(getattr(torch, dtype)).join().eval()
    tokens = 512
    ids, layout = torch.zeros(tokens, dtype=torch.long), Layout.of([64] * 8)
    with torch.inference_mode(), Live() as live:
        for _ in encoder.states(ids, layout, lambda query, key, value, _: value.clone()):
            pass
    computed = activation_bytes(config, tokens, dtype)
    assert live.most <= 1.02 * computed + tokens * config.head_size * 8  # and the table of angles
    assert live.most >= 0.75 * computed


def test_what_fits_where() -> None:
    """As the README says; computed, with half a gigabyte for CUDA itself."""

    def gib(name: str, dtype: str) -> float:
        config = registry.get(name).config
        return (weight_bytes(config, dtype) + activation_bytes(config, 33_792, dtype)) / GIB + 0.5

    assert gib("aido.rna-650m", "bfloat16") < 4
    assert gib("aido.rna-650m", "float32") < 6
    assert gib("aido.rna-1.6b", "bfloat16") < 7
    assert gib("aido.rna-1.6b", "float32") < 12
