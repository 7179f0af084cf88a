"""Training steps on packed sequences against padded ones of the same model, on the CPU in bfloat16 autocast.

    python -m tests.benchmarks.pretrain [--rounds 3] [--layers 6] [--threads 2] [--sequences 24] [--fasta FILE]

A turn reads the same sequences once, in batches of a like number of real tokens: forward, masked-LM loss, backward,
clipping, AdamW. The packed turn is a step of `raypipe pretrain`. The padded ones run the same encoder on (S, L) arrays
with torch's fused attention and a mask over the padding, once with sequences in random order and once sorted by length,
as length grouping does at best. Losses are checked to agree in float32. Tokens per second count real tokens only.
Results go to tests/benchmarks/results/ as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.alphabet import Alphabet
from model.attention import rotary, rotate
from model.config import AidoRnaConfig
from model.encoder import AidoRna, Block
from model.packing import Layout
from model.training import init_weights
from raypipe.training.batches import Packed, Packer
from raypipe.training.corpus import TRAIN, Corpus
from raypipe.training.labels import UNKNOWN
from raypipe.training.learner import Learner
from raypipe.training.schedule import make_optimizer
from raypipe.training.settings import PretrainSettings
from tests.benchmarks import machine, options
from tests.benchmarks.rounds import Rounds, interleave, loads, ratio, seconds, spread
from tests.benchmarks.samples import sample

PACKED, SHUFFLED, SORTED = "packed", "padded, random order", "padded, sorted by length"
BATCHES = 4
WIDTH, HEADS, INNER = 256, 8, 688
SETTINGS = PretrainSettings(batch_tokens=1 << 20, valid_share=0)


def make_corpus(sequences: Sequence[str]) -> Corpus:
    """The sequences as training reads them."""
    tokens = Alphabet().encode(sequences, accept_unknown=True)
    count = len(sequences)
    inside = np.ones(len(tokens.ids), dtype=bool)
    inside[tokens.offsets[:-1]] = inside[tokens.offsets[1:] - 1] = False
    nobody = np.full(count, UNKNOWN, dtype=np.int32)
    part, weight = np.full(count, TRAIN, dtype=np.uint8), np.ones(count, dtype=np.float32)
    return Corpus(tokens.ids[inside], np.cumsum([0, *tokens.lengths]), weight, nobody, nobody, part, {})


def batches(corpus: Corpus, *, by_length: bool) -> list[Packed]:
    """All sequences in `BATCHES` batches of about as many tokens, masked."""
    order = np.random.default_rng(0).permutation(len(corpus))
    if by_length:
        order = order[np.argsort(-corpus.lengths[order], kind="stable")]
    ends = np.cumsum(corpus.lengths[order] + 2)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, BATCHES) / BATCHES)
    packer = Packer(corpus, Alphabet(), SETTINGS, 1022)
    return [packer.plain(rows, number) for number, rows in enumerate(np.split(order, cuts))]


def padded_loss(encoder: AidoRna, batch: Packed) -> Tensor:
    """The masked-LM loss of a batch laid out as (S, L), short sequences padded."""
    lengths = torch.tensor(batch.lengths)
    longest, heads = int(lengths.max()), (encoder.config.num_heads, encoder.config.head_size)
    real = torch.arange(longest) < lengths[:, None]
    ids = torch.zeros(len(lengths), longest, dtype=torch.int64)
    ids[real] = torch.from_numpy(batch.ids)
    angles = [part[None] for part in rotary(Layout.of([longest]), encoder.config.head_size)]
    x = encoder.embedding(ids)
    for block in encoder.layers:
        assert isinstance(block, Block)
        normed, attention = block.attention_norm(x), block.attention
        query, key = (rotate(map_(normed).unflatten(-1, heads), *angles) for map_ in (attention.query, attention.key))
        value = attention.value(normed).unflatten(-1, heads)
        parts = (part.transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(*parts, attn_mask=real[:, None, None])
        x = x + attention.output(attended.transpose(1, 2).flatten(-2))
        x = x + block.mlp(block.mlp_norm(x))
    hidden = encoder.final_norm(x)[real]
    logits = encoder.logits(hidden.index_select(0, torch.from_numpy(batch.asked))).float()
    return F.cross_entropy(logits, torch.from_numpy(batch.labels))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Take the turns."""
    torch.set_num_threads(given.threads)
    corpus = make_corpus(sample(given.fasta, given.sequences, given.seed))
    encoder = AidoRna(AidoRnaConfig(given.layers, WIDTH, HEADS, INNER), lm_head=True)
    init_weights(encoder, given.seed)
    optimizer = make_optimizer(dict(encoder.named_parameters()), SETTINGS)
    learner = Learner(encoder, torch.from_numpy(Alphabet().nucleotides), SETTINGS).train()
    exact = Learner(
        encoder, torch.from_numpy(Alphabet().nucleotides), SETTINGS.model_copy(update={"precision": "float32"})
    )

    def padded(batch: Packed) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return padded_loss(encoder, batch)

    sets = {PACKED: batches(corpus, by_length=True), SHUFFLED: batches(corpus, by_length=False)}
    sets[SORTED] = sets[PACKED]
    with torch.no_grad():
        for batch in (sets[SHUFFLED][0], sets[SORTED][-1]):
            torch.testing.assert_close(padded_loss(encoder, batch), exact(batch)[0], rtol=1e-4, atol=1e-5)
    losses: dict[str, Callable[[Packed], Tensor]] = {PACKED: lambda batch: learner(batch)[0]}

    def turn(name: str) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in sets[name]:
            optimizer.zero_grad(set_to_none=True)
            losses.get(name, padded)(batch).backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), SETTINGS.clip)
            optimizer.step()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    for name in sets:
        losses.get(name, padded)(sets[name][-1]).backward()
    rounds = interleave(list(sets), given.rounds, turn)
    tokens = sum(len(batch.ids) for batch in sets[PACKED])
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": {
            "fasta": given.fasta.name,
            "sequences": given.sequences,
            "layers": given.layers,
            "threads": given.threads,
            "rounds": given.rounds,
            "hidden_size": WIDTH,
            "head_size": WIDTH // HEADS,
        },
        "tokens": tokens,
        "padding": {name: 1 - tokens / sum(_area(batch) for batch in sets[name]) for name in (SHUFFLED, SORTED)},
        "rounds": rounds,
        "tokens_per_second": _speeds(rounds, tokens, "wall_s"),
        "tokens_per_cpu_second": _speeds(rounds, tokens, "cpu_s"),
        "ratios": {f"{name} / {PACKED}": ratio(rounds, [name], [PACKED]) for name in (SHUFFLED, SORTED)},
    }


def _area(batch: Packed) -> int:
    return len(batch.lengths) * max(batch.lengths)


def _speeds(rounds: Rounds, tokens: int, clock: str) -> dict[str, dict[str, float]]:
    return {name: spread([tokens / taken for taken in seconds(rounds, [name], clock)]) for name in rounds[0]}


def markdown(result: dict[str, Any]) -> str:
    """A short page."""
    told, host = result["settings"], result["machine"]
    lines = [
        f"# Training on packed against padded sequences on the CPU, {result['date']}",
        f"- {told['sequences']} sequences of `{told['fasta']}`, evenly by length, {result['tokens']:,} tokens in "
        f"{BATCHES} steps; {told['layers']} layers, {told['hidden_size']} wide, heads of {told['head_size']}; bfloat16 "
        f"autocast; {told['threads']} threads; {told['rounds']} interleaved rounds.",
        f"- {machine.words(host)}; torch {result['versions']['torch']}.",
        f"- {machine.load_words(host, loads(result['rounds']), told['threads'])}",
        "- Of the padded arrays padding was "
        + ", ".join(f"{share:.0%} ({name})" for name, share in result["padding"].items())
        + ".",
        "",
        "| | real tokens per second, median | range | per second of processor time |",
        "|---|---|---|---|",
    ]
    for name, speed in result["tokens_per_second"].items():
        cpu = result["tokens_per_cpu_second"][name]["median"]
        lines.append(f"| {name} | {speed['median']:,.0f} | {speed['low']:,.0f}-{speed['high']:,.0f} | {cpu:,.0f} |")
    lines += ["", "| time | median | range | by processor time |", "|---|---|---|---|"]
    for name, r in result["ratios"].items():
        lines.append(f"| {name} | {r['median']:.2f}x | {r['low']:.2f}-{r['high']:.2f}x | {r['cpu']:.2f}x |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = options.parser(__doc__, layers=6)
    parser.add_argument("--sequences", type=int, default=24)
    given = parser.parse_args(arguments)
    result = measure(given)
    options.write(given.results, "pretrain", result, markdown(result))


if __name__ == "__main__":
    main()
