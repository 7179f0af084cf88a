"""What gpu.py and its parts share: trunks of random weights, the mix of lengths, clocks, the padded baseline.

Needs torch, safetensors and numpy only, and no file but length_mix.json beside it.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import registry
from model.alphabet import Alphabet
from model.api import Model
from model.attention import rotate
from model.checkpoint import LoadReport
from model.config import AidoRnaConfig
from model.encoder import AidoRna, Block
from model.float8 import Float8Layers
from model.packing import Layout
from model.steps import compiled

MIX = Path(__file__).with_name("length_mix.json")
ROW_S = 0.02  # of calls in a row
PADDED_BATCH = 32  # of the baseline, as the model card's usage
NAMES = {"650M": "aido.rna-650m", "1.6B": "aido.rna-1.6b"}
TINY = AidoRnaConfig(num_layers=4, hidden_size=64, num_heads=4, intermediate_size=96)


@dataclass(frozen=True)
class Bench:
    """Where and how large.

    Attributes:
        smoke: all of it in small, to see that the script runs; figures mean nothing.
        budget: tokens of a constant batch.
        batches: full batches of the mix that a forward pass is timed over.
        repeats: of every timing; the median counts.
    """

    device: torch.device
    smoke: bool
    budget: int
    batches: int
    repeats: int

    def config(self, name: str) -> AidoRnaConfig:
        """Of a model of NAMES; a tiny one in smoke mode."""
        return TINY if self.smoke else registry.get(NAMES[name]).config

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], Any], repeats: int | None = None) -> float:
        """Of one call, the median of several measurements after a call that does not count.

        On CUDA by the device's own clock, and of so many calls in a row that starting them does not count either: short
        kernels would seem slower than they are, and what is made of them faster.
        """
        function()
        calls = 1
        if self.device.type == "cuda":
            calls = min(50, max(1, round(ROW_S / self._seconds(function, 1))))
        return statistics.median(self._seconds(function, calls) for _ in range(repeats or self.repeats))

    def _seconds(self, function: Callable[[], Any], calls: int) -> float:
        """Of one call, out of several in a row."""
        self.wait()
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000 / calls
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    def peak_bytes(self, function: Callable[[], Any]) -> int | None:
        """The most of the device's memory that tensors took during a call; None on a CPU."""
        if self.device.type != "cuda":
            function()
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device)

    def clean(self) -> None:
        """Give back memory and compiled code of what went before."""
        gc.collect()
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def mix(tokens: int, seed: int) -> list[str]:
    """Random letters in lengths of the mix, shuffled, of at least so many tokens."""
    lengths = json.loads(MIX.read_text(encoding="utf-8"))["lengths"]
    dice = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGU", np.uint8)
    found: list[str] = []
    while tokens > 0:
        length = int(dice.choice(lengths))
        found.append(dice.choice(letters, length).tobytes().decode())
        tokens -= length + 2
    return found


def trunk(config: AidoRnaConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> AidoRna:
    """Random weights; equal seeds give the same ones, rounded to the type."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        encoder = AidoRna(config)
    encoder.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.0 if name.startswith("embedding") else 0.02)
            elif "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02)
    return encoder.to(dtype).join().eval()


def model(encoder: AidoRna, *, fill: bool, compile: bool = False, float8: bool = False) -> Model:
    """A trunk as the package's users have it."""
    encoder.float8 = Float8Layers() if float8 else None
    if compile:
        encoder.fixed = compiled()
    made: dict[str, Any] = {"folder": Path("."), "report": LoadReport(), "entry": None, "trained": False}
    return Model(encoder, Alphabet(), name="random", fill=fill, **made)


@torch.inference_mode()
def padded(encoder: AidoRna, ids: Tensor, lengths: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """The encoder as it is commonly run: padded batches, torch's SDPA with a mask, one kernel after another.

    Args:
        encoder: whose weights are taken.
        ids: (S, L), padded with 0.
        lengths: (S,) tokens of each sequence.
        angles: cosines and sines of L positions, (L, 1, H/2) each.

    Returns:
        (S, D) float32 means over the nucleotides.
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    keep = places < lengths[:, None]
    mask = keep[:, None, None, :]
    x = encoder.embedding(ids) * keep[..., None]
    for block in encoder.layers:
        assert isinstance(block, Block)
        attention, y = block.attention, block.attention_norm(x)
        maps = (attention.query, attention.key, attention.value)
        q, k, v = (each(y).unflatten(-1, attention.heads) for each in maps)
        q, k, v = (each.transpose(1, 2) for each in (rotate(q, *angles), rotate(k, *angles), v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + attention.output(attended.transpose(1, 2).flatten(-2))
        x = x + block.mlp(block.mlp_norm(x))
    inner = (places >= 1) & (places < lengths[:, None] - 1)
    states = encoder.final_norm(x).float() * inner[..., None]
    return states.sum(1) / (lengths[:, None] - 2)


def padded_batches(sequences: Sequence[str], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Token ids (S, L) and lengths (S,) of sequences in their order, in batches of PADDED_BATCH."""
    alphabet, made = Alphabet(), []
    for start in range(0, len(sequences), PADDED_BATCH):
        tokens = alphabet.encode(sequences[start : start + PADDED_BATCH])
        sizes = np.diff(tokens.offsets)
        ids = np.zeros((len(sizes), int(sizes.max())), np.int64)
        for row, size in enumerate(sizes.tolist()):
            ids[row, :size] = tokens[row]
        made.append((torch.from_numpy(ids).to(device), torch.from_numpy(sizes).to(device)))
    return made


def even(length: int, budget: int, device: torch.device) -> Layout:
    """Segments of one length, as many as fit the budget."""
    return Layout.of([length] * max(1, budget // length), device)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Of rows."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


def overlap(ours: np.ndarray, theirs: np.ndarray, k: int = 10) -> float:
    """Share of the k nearest by cosine, what all vectors have in common subtracted, that are the same."""
    found = []
    for vectors in (ours, theirs):
        centred = vectors - vectors.mean(0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        scores = centred @ centred.T
        np.fill_diagonal(scores, -np.inf)
        found.append(np.argpartition(-scores, k, axis=1)[:, :k])
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*(each.tolist() for each in found), strict=True)]))
