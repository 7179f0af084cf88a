"""What a run over some sequences would cost, from their lengths: operations, hours, bytes on disk, memory of the index.

Legend: T tokens of a window (its nucleotides and two specials), W weights of the encoder's linear maps, D width of the
trunk, N sequences.

    operations of a window = 2 W T + 4 layers D T^2 (attention: QK and AV) + heads over pairs of nucleotides

Hours follow from a stated rate, not from a measurement of the device, unless one was taken (`measure_flops`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from index.places import RemotePath
from index.planning import plan_index
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store
from model.config import AidoRnaConfig
from model.footprint import DEFAULT_MAX_TOKENS, activation_bytes, weight_bytes
from model.windows import cut
from raypipe.checkpoints import Checkpoint
from raypipe.cleaning import md5
from raypipe.compute_types import default_dtype
from raypipe.errors import RaypipeError
from raypipe.plan import Shard, cut_shards
from raypipe.sources import read_batches
from raypipe.wording import size
from raypipe.work import (
    CPU_FLOPS,
    CPU_HEAD_FLOPS,
    GPU_HEAD_FLOPS,
    default_shard_tokens,
    encoder_weights,
    flops_per_pair,
    keeps_tokens,
    sequence_lengths,
    sequence_tokens,
    stored_pairs,
)

OVERHEAD = 1.05
"""What Ray, reading and writing may take besides the model."""
ITEM_BYTES = {"float16": 2, "float32": 4}
PAIR_BYTES = 12  # i, j and score
# 64 bits of the md5 tell sequences apart well enough to count them.
KEYED = np.dtype([("key", "u8"), ("length", "i8")])


@dataclass(frozen=True)
class Device:
    """Something that computes.

    Attributes:
        peak: dense products of the data sheet, operations a second: bfloat16 of a GPU, float32 of one core.
        utilisation: share of it that a run is taken to reach. Of GPUs: published encoders reach 0.31 to 0.6 (BERT,
            ESM-2 650M in training); packed bfloat16 of these models with plain kernels is computed to reach 0.45.
        head_flops: of heads over pairs, in float32.
    """

    peak: float
    utilisation: float
    head_flops: float


DEVICES = {
    "h200": Device(989e12, 0.4, GPU_HEAD_FLOPS),
    "h100": Device(989e12, 0.4, GPU_HEAD_FLOPS),
    "a100": Device(312e12, 0.4, GPU_HEAD_FLOPS),
    # The low end of what cores were measured to give in these products.
    "cpu": Device(CPU_FLOPS, 1.0, CPU_HEAD_FLOPS),
}


@dataclass(frozen=True)
class Output:
    """What a set takes on disk.

    Attributes:
        exact: whether that is known; of predictions, which are compressed and depend on what is found, it is the most.
    """

    folder: str
    bytes: int
    exact: bool


@dataclass(frozen=True)
class Cost:
    """What a run would cost.

    Attributes:
        refused: sequences that the model would not read.
        linear, attention, heads: operations.
        rate: operations a second of one device.
        seconds: of the whole run.
        shards: their number; `shard_seconds` is the time that one device takes for the median and for the longest one.
        worker_bytes: weights and the activations of one batch, at most, in the default type of the device.
        index: type that "auto" would take; `index_bytes` is what it keeps in memory, `index_disk_bytes` on disk.
    """

    sequences: int
    nucleotides: int
    longest: int
    refused: int
    tokens: int
    linear: float
    attention: float
    heads: float
    rate: float
    seconds: float
    shards: int
    shard_tokens: int
    shard_seconds: tuple[float, float]
    outputs: tuple[Output, ...]
    worker_bytes: int
    index: str
    index_bytes: int
    index_disk_bytes: int

    @property
    def bytes(self) -> int:
        """Of everything on disk, the index left out."""
        return sum(output.bytes for output in self.outputs)


def estimate(
    lengths: np.ndarray, config: AidoRnaConfig, sets: Sequence[ShardedSet], device: str, number: int, rate: float
) -> Cost:
    """The cost of making `sets` of sequences of these lengths in one pass of the model.

    Args:
        lengths: nucleotides, int64 (N,), in the order in which they would be cut into shards.
        sets: all of one policy for long sequences; the first may be one of vectors.
        device: one of DEVICES.
        number: how many of them.
        rate: operations a second that one of them gives to the trunk.
    """
    context, made = config.context, sets[0]
    cuda = device != "cpu"
    # The same lengths again and again: forty million sequences have a few thousand.
    distinct, times = np.unique(lengths, return_counts=True)
    read = distinct <= context if made.on_long == "reject" else np.ones(len(distinct), bool)
    windows = cut(distinct[read], size=context, long="truncate" if made.on_long == "truncate" else "window")
    each = times[read][windows.sequence].astype(np.float64)
    width = windows.length.astype(np.float64) + 2
    linear = 2 * encoder_weights(config) * float((width * each).sum())
    attention = 4 * config.num_layers * config.hidden_size * float((width**2 * each).sum())
    heads = flops_per_pair(config, sets) * float((windows.length.astype(np.float64) ** 2 * each).sum())
    seconds = OVERHEAD * ((linear + attention) / rate + heads / DEVICES[device].head_flops)
    tokens = sequence_tokens(lengths, context, made)
    shard_tokens = made.shard_tokens or default_shard_tokens(config, sets, lengths, number, cuda=cuda)
    shards = cut_shards(tokens, stored_pairs(lengths, context, sets), 0, 0, shard_tokens)
    sizes = np.array([shard.tokens for shard in shards] or [0])
    total = int(tokens.sum())
    kept = len(lengths) - int(times[~read].sum())
    vectors = next((one for one in sets if isinstance(one, Embedding)), None)
    index = plan_index(kept, vectors.dimension) if vectors else None
    return Cost(
        sequences=len(lengths),
        nucleotides=int(lengths.sum()),
        longest=int(lengths.max(initial=0)),
        refused=len(lengths) - kept,
        tokens=total,
        linear=linear,
        attention=attention,
        heads=heads,
        rate=rate,
        seconds=seconds / number,
        shards=len(shards),
        shard_tokens=shard_tokens,
        shard_seconds=(
            seconds * float(np.median(sizes)) / max(1, total),
            seconds * float(sizes.max()) / max(1, total),
        ),
        outputs=tuple(output for one in sets for output in outputs(one, lengths, context)),
        worker_bytes=worker_bytes(config, default_dtype(cuda=cuda), cuda=cuda),
        index=index.type if index else "none",
        index_bytes=index.hot_bytes if index else 0,
        index_disk_bytes=index.disk_bytes if index else 0,
    )


def worker_bytes(config: AidoRnaConfig, dtype: str, *, cuda: bool) -> int:
    """Memory of the trunk in one worker: weights, and the activations of a batch of the default size."""
    return weight_bytes(config, dtype) + activation_bytes(config, DEFAULT_MAX_TOKENS["cuda" if cuda else "cpu"], dtype)


def outputs(made: ShardedSet, lengths: np.ndarray, context: int) -> list[Output]:
    """What a set takes on disk, folder by folder.

    Args:
        lengths: nucleotides of its sequences, (N,).
        context: the model's.
    """
    kept = lengths[lengths <= context] if made.on_long == "reject" else lengths
    # Of a sequence that is cut off, the values of what was read.
    letters = int((np.minimum(kept, context) if made.on_long == "truncate" else kept).sum())
    number, name = len(kept), f"{made.main}/{made.name}"
    ids = 8 * number
    if isinstance(made, Embedding):
        value = made.dimension * ITEM_BYTES[made.dtype]
        found = [Output(name, ids + value * number, True)]
        return [*found, Output(f"tokens/{made.name}", ids + value * letters, True)] if made.per_token else found
    assert isinstance(made, Prediction)
    labels = max(1, len(made.labels))
    if made.task == "logits":
        return [Output(name, ids + labels * ITEM_BYTES[made.dtype] * letters, True)]
    most = {
        "sequence": (4 * labels + 16) * number,
        "token": (4 * labels + 1) * letters,
        "structure": (1 + PAIR_BYTES // 2) * letters,  # at most half as many pairs as letters
        "contact": PAIR_BYTES * int(stored_pairs(kept, context, [made]).sum()),
        "pll": 20 * number,
        "variants": 16 * letters,
    }[made.task]
    return [Output(name, ids + most, False)]


def refuse_small_disk(
    store: Store, sets: Sequence[ShardedSet], lacking: Sequence[Sequence[Shard]], context: int
) -> None:
    """Before hours of work: is there room for what they will give?

    Only what is known beforehand counts (`Output.exact`); of predictions nobody knows how long they will be.

    Args:
        sets: all that a run makes.
        lacking: the shards of each set that are to be made.
        context: the model's.

    Raises:
        RaypipeError: there is not; the message says how much is needed, of what, and how to mend it.
    """
    if not any(lacking) or isinstance(store.root, RemotePath):
        return  # how much room an object store has nobody can tell
    lengths = np.zeros(0, np.int64)
    if any(keeps_tokens(made) for made in sets):
        # Pooled vectors are all alike: then the lengths need not be read.
        lengths = sequence_lengths(store, 0)
    found: list[Output] = []
    for made, shards in zip(sets, lacking, strict=True):
        if keeps_tokens(made):
            own = [lengths[shard.seq_lo : shard.seq_hi] for shard in shards]
            own = np.concatenate(own) if own else np.zeros(0, np.int64)
        else:
            own = np.ones(sum(shard.num_sequences for shard in shards), np.int64)
        found += [output for output in outputs(made, own, context) if output.exact]
    needed, free = sum(output.bytes for output in found), shutil.disk_usage(store.root).free
    if needed > free:
        what = ", ".join(f"{size(output.bytes)} in {output.folder}" for output in found if output.bytes)
        raise RaypipeError(
            f"{store.root}: the disk is too small: the run will write {what}, and {size(free)} are free; free some "
            f"space, or move the atlas to a larger disk, and run the same command again"
        )


def read_lengths(paths: Iterable[str]) -> np.ndarray:
    """Nucleotides of the distinct sequences in input files, in the order of their lengths; int64 (N,).

    Raises:
        InputError: a file cannot be read.
    """
    found = [np.zeros(0, KEYED)]
    for path in paths:
        for good, _ in read_batches(path):
            keys = [int(md5(text.encode("ascii"))[:16], 16) for text in good["sequence"].to_pylist()]
            part = np.zeros(len(keys), KEYED)
            part["key"], part["length"] = keys, good["length"]
            found.append(part)
    known = np.concatenate(found)
    _, first = np.unique(known["key"], return_index=True)
    return np.sort(known["length"][first])


def measure_flops(checkpoint: Checkpoint, lengths: np.ndarray, seconds: float = 5.0) -> float:
    """Operations a second that one core of this machine gives to the trunk on sequences of such lengths.

    In the type in which a run would compute by default.
    """
    import torch

    from model import load

    threads = torch.get_num_threads()
    model = load(checkpoint.path, device="cpu", dtype=default_dtype(cuda=False))
    config = model.config
    dice = np.random.default_rng(0)
    read = np.minimum(lengths, config.context)
    try:
        torch.set_num_threads(1)
        model.features(["ACGU" * 10])
        done = spent = 0.0
        while spent < seconds:
            drawn = dice.choice(read, size=max(1, min(64, 4096 // max(1, int(read.mean())))))
            texts = ["".join(dice.choice(list("ACGU"), size=int(number))) for number in drawn]
            begin = time.perf_counter()
            model.features(texts)
            spent += time.perf_counter() - begin
            width = drawn.astype(np.float64) + 2
            done += 2 * encoder_weights(config) * width.sum()
            done += 4 * config.num_layers * config.hidden_size * (width**2).sum()
    finally:
        torch.set_num_threads(threads)
    return done / spent
