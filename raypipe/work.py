"""What a run costs: tokens and stored pairs of a sequence, and the tokens of a shard that takes some 20 s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from index.parquet import read_rows
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store
from model.config import AidoRnaConfig
from model.footprint import encoder_weights
from model.windows import cut

# Work of one shard when the user does not say: long against the start of a task, short against losing it.
SHARD_SECONDS = 20
CPU_FLOPS = 5e10  # float32 products of one core, the low end of what was measured
CPU_HEAD_FLOPS = 2.5e10  # in the structure head's convolutions
GPU_FLOPS = 3e14  # bfloat16 products of one data-centre GPU
GPU_HEAD_FLOPS = 2e13  # float32, in which heads compute
SHARDS_PER_WORKER = 4
# A large model on one core takes a minute or two for so many.
MIN_SHARD_TOKENS = 4_096
MAX_SHARD_TOKENS = 8 << 20
MAX_KEPT_SHARD_TOKENS = 1 << 18  # where something is kept of every token, in memory until the shard is written
# Entries of i, j and score that a shard may have to hold before it is written, at some 40 bytes each. Tokens do not
# bound them: they grow with the square of the length.
MAX_SHARD_PAIRS = 1 << 24

# Two blocks of a 1x1, a 3x3 and a 1x1 convolution over 64 channels, then a 3x3 one to a single channel.
STRUCTURE_FLOPS_PER_PAIR = 2 * (2 * 64 * 64 * (1 + 9 + 1)) + 2 * 64 * 9


def sequence_lengths(store: Store, seq_lo: int) -> np.ndarray:
    """Nucleotides of every sequence from `seq_lo` on, in the order of seq_id; int64 (N,)."""
    parts = store.parts("sequences")
    if not parts:
        return np.zeros(0, np.int64)
    table = read_rows(parts, ["seq_id", "length"], seq_lo, store.num_sequences)
    ids, lengths = (table[name].to_numpy() for name in ("seq_id", "length"))
    # They are in order already, unless someone renamed files: sorting forty million takes seconds.
    return (lengths if np.all(ids[1:] > ids[:-1]) else lengths[np.argsort(ids)]).astype(np.int64)


def sequence_tokens(lengths: np.ndarray, context: int, made: ShardedSet) -> np.ndarray:
    """Tokens that one pass for `made` sends through the model for every sequence; int64 (N,).

    Special tokens and windows are counted. A window of n nucleotides that is scored by masking costs n copies of it.
    """
    rejected = (lengths > context) & (made.on_long == "reject")
    windows = cut(
        np.where(rejected, 0, lengths), size=context, long="truncate" if made.on_long == "truncate" else "window"
    )
    copies = windows.length if is_masked(made) else 1
    tokens = np.bincount(windows.sequence, weights=copies * (windows.length + 2), minlength=len(lengths))
    return np.where(rejected, 0, tokens).astype(np.int64)


def stored_pairs(lengths: np.ndarray, context: int, sets: Sequence[ShardedSet]) -> np.ndarray:
    """The most pairs that heads over pairs can give of every sequence, one for each label; int64 (N,).

    How many are above the threshold is known only afterwards: a regression stores all of them, and so does a class
    that most pairs belong to.

    Args:
        lengths: nucleotides, (N,).
        sets: all that is made in one pass; the pairs of all of them are in memory together.
    """
    read = np.minimum(lengths, context)
    if sets[0].on_long == "reject":
        read = np.where(lengths > context, 0, read)
    kept = lengths if sets[0].on_long == "window" else read
    heads = [made for made in sets if isinstance(made, Prediction) and made.task in ("contact", "structure")]
    return (kept * read // 2 * sum(max(1, len(made.labels)) for made in heads)).astype(np.int64)


def is_masked(made: ShardedSet) -> bool:
    """Whether `made` masks one nucleotide after the other, each in a copy of its sequence."""
    return isinstance(made, Prediction) and made.method == "masked"


def largest_shard_tokens(config: AidoRnaConfig, sets: Sequence[ShardedSet], lengths: np.ndarray, *, cuda: bool) -> int:
    """Tokens of a shard that takes some 20 s on this device, and whose results fit the memory.

    Args:
        sets: all that is made of the shard in one pass.
        lengths: nucleotides of the sequences, (N,). A head over pairs looks at as many pairs for every nucleotide as
            its window has nucleotides; their mean is taken, so that shards of longer sequences take more time.
    """
    long = "truncate" if sets[0].on_long == "truncate" else "window"
    read = cut(lengths, size=config.context, long=long).length
    pairs = float((read.astype(np.float64) ** 2).sum() / max(1, read.sum()))
    seconds = 2 * encoder_weights(config) / (GPU_FLOPS if cuda else CPU_FLOPS)
    seconds += pairs * flops_per_pair(config, sets) / (GPU_HEAD_FLOPS if cuda else CPU_HEAD_FLOPS)
    most = MAX_KEPT_SHARD_TOKENS if any(keeps_tokens(made) for made in sets) else MAX_SHARD_TOKENS
    return min(max(int(SHARD_SECONDS / seconds), MIN_SHARD_TOKENS), most)


def default_shard_tokens(
    config: AidoRnaConfig, sets: Sequence[ShardedSet], lengths: np.ndarray, workers: int, *, cuda: bool
) -> int:
    """Tokens of a shard where the user does not say: the largest, or fewer so that each of `workers` has several."""
    total = int(sequence_tokens(lengths, config.context, sets[0]).sum())
    by_share = max(total // (SHARDS_PER_WORKER * workers) + 1, MIN_SHARD_TOKENS)
    return min(by_share, largest_shard_tokens(config, sets, lengths, cuda=cuda))


def flops_per_pair(config: AidoRnaConfig, sets: Sequence[ShardedSet]) -> int:
    """Of all heads that look at every pair of nucleotides; 2 D C for a contact head of C outputs."""
    contacts = [made for made in sets if isinstance(made, Prediction) and made.task == "contact"]
    structures = [made for made in sets if isinstance(made, Prediction) and made.task == "structure"]
    outputs = sum(max(1, len(made.labels)) for made in contacts)
    return 2 * config.hidden_size * outputs + STRUCTURE_FLOPS_PER_PAIR * len(structures)


def keeps_tokens(made: ShardedSet) -> bool:
    """Whether something is kept of every token that goes through the model."""
    if isinstance(made, Embedding):
        return made.per_token
    return isinstance(made, Prediction) and made.task not in ("sequence", "pll") and not is_masked(made)
