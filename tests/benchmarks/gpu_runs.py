"""The forward pass of one trunk: fidelity, speed, the padded baseline, an actor's loop, 8 bits, memory. See gpu.py."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import load
from model.alphabet import Alphabet
from model.api import Model
from model.attention import rotary
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.footprint import activation_bytes, flops, weight_bytes
from model.packing import Batch, Layout, batches
from model.steps import PLAIN
from model.windows import cut
from tests.benchmarks import gpu_parts
from tests.benchmarks.gpu_setup import PADDED_BATCH, Bench, cosines, mix, model, overlap, padded, padded_batches, trunk

HALF = torch.bfloat16
Result = dict[str, Any]


def packed(bench: Bench, sequences: list[str]) -> list[Batch]:
    """Constant batches of the sequences, on the device."""
    alphabet = Alphabet()
    tokens = alphabet.encode(sequences)
    windows = cut(tokens.lengths, size=1022, long="window")
    options: dict[str, Any] = {"max_tokens": bench.budget, "device": bench.device, "fill": True}
    return list(batches(tokens, windows, alphabet, **options))


def forward(bench: Bench, encoder: AidoRna, made: list[Batch]) -> Result:
    """Batches that lie on the device already, to the last state: seconds, real tokens and operations a second."""

    @torch.inference_mode()
    def once() -> None:
        for batch in made:
            for _ in encoder.states(batch.ids, batch.filled):
                pass

    taken = bench.seconds(once)
    tokens = sum(batch.layout.tokens for batch in made)
    work = sum(flops(encoder.config, batch.layout.lengths) for batch in made)
    return {"seconds": taken, "tokens": tokens, "tokens_per_s": tokens / taken, "flops": work / taken}


def ceiling(bench: Bench, config: AidoRnaConfig, made: list[Batch], alone: list[Result]) -> float:
    """Seconds that products and attention alone take for these batches."""
    products = sum(row["seconds"] for row in alone if row["tokens"] == bench.budget)
    attended = sum(gpu_parts.attention_seconds(bench, config, batch.filled) for batch in made)
    return config.num_layers * (products * len(made) + attended)


def fidelity(bench: Bench, seed: int, loaded: Model, exact: np.ndarray) -> Result:
    """Pooled cosines to float32, the shared ten nearest, and what company changes in a sequence's vector."""
    sequences = _witnesses(bench, seed)
    ours = loaded.embed(sequences, max_tokens=bench.budget)
    turned = loaded.embed(sequences[::-1], max_tokens=bench.budget)[::-1]
    found = cosines(ours, exact)
    return {
        "sequences": len(sequences),
        "median": float(np.median(found)),
        "worst": float(found.min()),
        "neighbours": overlap(ours, exact, min(10, len(sequences) // 2)),
        "company": float(np.abs(ours - turned).max() / np.abs(ours).max()),
    }


def trained(bench: Bench, seed: int, *, float8: bool) -> Result:
    """Fidelity of a small trunk with trained weights."""
    types = ("float32", "bfloat16", *(["float8"] if float8 else []))
    models = {dtype: load("nano", device=bench.device, dtype=dtype, compile=False) for dtype in types}
    reference = models["float32"].embed(_witnesses(bench, seed), max_tokens=bench.budget)
    return {dtype: fidelity(bench, seed, models[dtype], reference) for dtype in types[1:]}


def _witnesses(bench: Bench, seed: int) -> list[str]:
    return mix(3 * bench.budget if bench.smoke else 4 * bench.budget, seed + 1)


def exact(bench: Bench, config: AidoRnaConfig, seed: int) -> tuple[np.ndarray, Result]:
    """Float32 vectors of the witnesses; with how far they are from the padded textbook encoder, and the memory."""
    encoder = trunk(config, bench.device, torch.float32)
    loaded, sequences = model(encoder, fill=False), _witnesses(bench, seed)
    vectors: list[np.ndarray] = []
    most = bench.peak_bytes(lambda: vectors.append(loaded.embed(sequences, max_tokens=bench.budget)))
    few = sequences[:16]
    textbook = [padded_pass(encoder, *batch).cpu().numpy() for batch in padded_batches(few, bench.device)]
    difference = np.abs(vectors[0][: len(few)] - np.concatenate(textbook)).max() / np.abs(vectors[0]).max()
    return vectors[0], {"difference_to_padded": float(difference), "memory": _memory(bench, config, "float32", most)}


def _memory(bench: Bench, config: AidoRnaConfig, dtype: str, most: int | None) -> Result:
    computed = weight_bytes(config, dtype) + activation_bytes(config, bench.budget, dtype)
    return {"budget": bench.budget, "measured": most, "computed": computed}


def padded_pass(encoder: AidoRna, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`gpu_setup.padded` of one batch."""
    angles = rotary(Layout.of([ids.shape[1]], ids.device), encoder.config.head_size)
    return padded(encoder, ids, lengths, angles)


def baseline(bench: Bench, encoder: AidoRna, sequences: list[str]) -> Result:
    """Padded batches of 32 in the order given, which is a shuffle."""
    made = padded_batches(sequences, bench.device)
    taken = bench.seconds(lambda: [padded_pass(encoder, *batch) for batch in made], 1)
    tokens = sum(len(sequence) + 2 for sequence in sequences)
    waste = sum(ids.numel() for ids, _ in made) / tokens
    return {"seconds": taken, "tokens": tokens, "tokens_per_s": tokens / taken, "waste": waste}


def loop(bench: Bench, loaded: Model, sequences: list[str]) -> Result:
    """As an actor does it: read a shard, pack, infer, pool, copy back, write; Parquet where pyarrow is, else .npy."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        pa = pq = None
    shards = [sequences, sequences[::-1]]
    with tempfile.TemporaryDirectory() as home:
        files = [Path(home) / f"{number}.txt" for number in range(len(shards))]
        for file, shard in zip(files, shards, strict=True):
            file.write_text("\n".join(shard), encoding="ascii")

        def once() -> None:
            for file in files:
                vectors = loaded.embed(file.read_text(encoding="ascii").split("\n"), max_tokens=bench.budget)
                if pa is None or pq is None:
                    np.save(file.with_suffix(".npy"), vectors.astype(np.float16))
                    continue
                flat = pa.array(vectors.astype(np.float16).ravel())
                rows = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                pq.write_table(pa.table({"embedding": rows}), file.with_suffix(".parquet"), compression="none")

        taken = bench.seconds(once, max(1, bench.repeats // 2))
    tokens = len(shards) * sum(len(sequence) + 2 for sequence in sequences)
    return {"tokens": tokens, "tokens_per_s": tokens / taken, "writes": "Parquet" if pa else "npy"}


def sweep(bench: Bench, name: str, seed: int, *, compile: bool) -> Result:
    """The forward pass at another budget, over as many tokens."""
    bench.clean()
    encoder = trunk(bench.config(name), bench.device, HALF)
    model(encoder, fill=True, compile=compile)
    return forward(bench, encoder, packed(bench, mix(bench.batches * bench.budget - bench.budget // 20, seed)))


def one_model(bench: Bench, name: str, seed: int, *, compile: bool, float8: bool) -> Result:
    """Everything about one trunk; correctness first, and a refusal to go on without it."""
    config, begun = bench.config(name), time.perf_counter()
    bench.clean()
    reference, result = exact(bench, config, seed)
    if not result["difference_to_padded"] <= 1e-4:
        raise SystemExit(f"{name}: packed float32 is {result['difference_to_padded']:.1e} from padded float32; stopped")
    bench.clean()
    encoder = trunk(config, bench.device, HALF)
    loaded = model(encoder, fill=True, compile=compile)
    result["bfloat16"] = fidelity(bench, seed, loaded, reference)
    sequences = mix(bench.batches * bench.budget - bench.budget // 20, seed)
    made = packed(bench, sequences)
    result["forward"] = forward(bench, encoder, made)
    result["parts"] = {
        "products": gpu_parts.products_alone(bench, config, (bench.budget // 2, bench.budget), float8=float8),
        "attention": gpu_parts.attention(bench, config, bench.budget, made[0].filled),
        "between": gpu_parts.between(bench, encoder, bench.budget, compile=compile),
        "pooling_s": gpu_parts.pooling(bench, config, made[-1].filled),
    }
    result["ceiling_s"] = ceiling(bench, config, made, result["parts"]["products"])
    most = bench.peak_bytes(lambda: loaded.embed(sequences, max_tokens=bench.budget))
    result["memory"] = {"float32": result.pop("memory"), "bfloat16": _memory(bench, config, "bfloat16", most)}
    result["loop"] = loop(bench, loaded, sequences)
    result["padded"] = baseline(bench, encoder, sequences[: PADDED_BATCH * (2 if bench.smoke else 40)])
    steps, encoder.fixed = encoder.fixed, PLAIN
    result["plain"] = forward(bench, encoder, made)
    encoder.fixed = steps
    if float8:
        eight = model(encoder, fill=True, compile=compile, float8=True)
        result["float8"] = fidelity(bench, seed, eight, reference) | forward(bench, encoder, made)
    result["seconds"] = time.perf_counter() - begun
    return result
