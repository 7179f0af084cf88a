"""Cut the store's sequences into shards: the unit of work, of resume, and of what a kill can cost.

A shard is a range of seq_ids. The plan of one set of vectors stands beside them in `plan.parquet`; it is only ever
extended (sequences that were ingested later), so a file made once keeps its meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index import files
from index.schema import read_footer
from index.store import Embedding, Store
from model.config import AidoRnaConfig
from model.windows import cut
from raypipe.errors import RaypipeError

PLAN_FILE = "plan.parquet"
PLAN = pa.schema([("shard", pa.int32()), ("seq_lo", pa.int64()), ("seq_hi", pa.int64()), ("tokens", pa.int64())])

# Work of one shard when the user does not say: long against the start of a task, short against losing it.
SHARD_SECONDS = 20
CPU_FLOPS = 5e10  # float32 products of one core, the low end of what was measured
GPU_FLOPS = 3e14  # bfloat16 products of one data-centre GPU
SHARDS_PER_WORKER = 4
MIN_SHARD_TOKENS = 16_384
MAX_SHARD_TOKENS = 8 << 20
MAX_PER_TOKEN_SHARD_TOKENS = 1 << 18  # these vectors stay in memory until the shard is written


@dataclass(frozen=True)
class Shard:
    """Sequences [seq_lo, seq_hi) and the tokens that they cost, special tokens and windows counted."""

    number: int
    seq_lo: int
    seq_hi: int
    tokens: int

    @property
    def file_name(self) -> str:
        """Name of the shard's file, in embeddings/ as in tokens/."""
        return f"part-{self.number:06d}.parquet"

    @property
    def num_sequences(self) -> int:
        """Sequences in the range, whether they can be embedded or not."""
        return self.seq_hi - self.seq_lo

    def rejects_name(self, embedding: Embedding) -> str:
        """Name of the file in rejects/ with the sequences of this shard that failed; none, no file."""
        return f"part-embed-{embedding.name}-{self.number:06d}.parquet"


def default_shard_tokens(config: AidoRnaConfig, total_tokens: int, workers: int, *, cuda: bool, per_token: bool) -> int:
    """Tokens of a shard that takes some 20 s on this device, and few enough that every worker has several."""
    flops_per_token = (
        2 * config.num_layers * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    )
    by_time = int(SHARD_SECONDS * (GPU_FLOPS if cuda else CPU_FLOPS) / flops_per_token)
    by_share = total_tokens // (SHARDS_PER_WORKER * workers) + 1
    most = MAX_PER_TOKEN_SHARD_TOKENS if per_token else MAX_SHARD_TOKENS
    return min(max(min(by_time, by_share), MIN_SHARD_TOKENS), most)


def sequence_tokens(store: Store, seq_lo: int, context: int, on_long: str) -> np.ndarray:
    """Tokens that every sequence from `seq_lo` on costs, in the order of seq_id; int64 (N,)."""
    # Here, not above: with pandas installed its import costs every command a quarter of a second.
    import pyarrow.dataset as ds

    parts = [str(part) for part in store.parts("sequences")]
    if not parts:
        return np.zeros(0, np.int64)
    table = ds.dataset(parts).to_table(columns=["seq_id", "length"], filter=ds.field("seq_id") >= seq_lo)
    lengths = table.sort_by("seq_id")["length"].to_numpy().astype(np.int64)
    if on_long == "reject":
        return np.where(lengths > context, 0, lengths + 2)
    windows = cut(lengths, size=context, long="window" if on_long == "window" else "truncate")
    return np.bincount(windows.sequence, weights=windows.length + 2, minlength=len(lengths)).astype(np.int64)


def make_plan(store: Store, embedding: Embedding, context: int) -> list[Shard]:
    """The shards of `embedding`: those planned before, then new ones for sequences that came since.

    The caller holds `store.lock()`.
    """
    planned = read_plan(store, embedding.name)
    first = planned[-1].seq_hi if planned else 0
    if first < store.num_sequences:
        tokens = sequence_tokens(store, first, context, embedding.on_long)
        planned += _cut(tokens, first, len(planned), embedding.shard_tokens)
        columns = [[getattr(shard, name) for shard in planned] for name in ("number", "seq_lo", "seq_hi", "tokens")]
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, PLAN, strict=True)], schema=PLAN)
        files.write_parquet(_plan_path(store, embedding.name), table, store.root)
    return planned


def read_plan(store: Store, name: str) -> list[Shard]:
    """The shards planned so far, in order; none before the first run."""
    path = _plan_path(store, name)
    if not path.is_file():
        return []
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RaypipeError(f"{path}: damaged ({error}); remove it: finished shards that still fit are kept") from error
    return [Shard(row["shard"], row["seq_lo"], row["seq_hi"], row["tokens"]) for row in rows]


def unfinished(store: Store, embedding: Embedding, shards: list[Shard]) -> list[Shard]:
    """Shards without a whole file of this run's fingerprint, or without the rejects that the file speaks of."""
    return [shard for shard in shards if not _is_finished(store, embedding, shard)]


def forget_plan(store: Store, name: str) -> None:
    """Remove the plan of a set of vectors that has no finished shard. The caller holds `store.lock()`."""
    _plan_path(store, name).unlink(missing_ok=True)


def remove_strays(store: Store, embedding: Embedding, shards: list[Shard]) -> None:
    """Remove files of shards that the plan does not have: of an earlier plan, they would count twice.

    The caller holds `store.lock()`.
    """
    planned = {shard.file_name for shard in shards}
    for kind in ("embeddings", "tokens"):
        wanted = planned if kind == "embeddings" or embedding.per_token else set()
        for path in store.embedding_parts(embedding.name, kind):
            if path.name not in wanted:
                path.unlink()
    failed = {shard.rejects_name(embedding) for shard in shards}
    own = re.compile(rf"part-embed-{re.escape(embedding.name)}-\d+\.parquet")
    for path in (store.root / "rejects").glob("part-embed-*.parquet"):
        if own.fullmatch(path.name) and path.name not in failed:
            path.unlink()


def count_failed(store: Store, embedding: Embedding, shard: Shard) -> int:
    """Sequences of `shard` that stand in rejects/."""
    path = store.root / "rejects" / shard.rejects_name(embedding)
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException):
        return 0


def shard_footer(embedding: Embedding, shard: Shard, rows: int, failed: int) -> dict[str, object]:
    """What a shard's file says of itself: whose it is, which range, how many rows and how many failed."""
    return {
        "fingerprint": embedding.fingerprint,
        "shard": shard.number,
        "seq_lo": shard.seq_lo,
        "seq_hi": shard.seq_hi,
        "rows": rows,
        "failed": failed,
    }


def _is_finished(store: Store, embedding: Embedding, shard: Shard) -> bool:
    failed = count_failed(store, embedding, shard)
    expected = shard_footer(embedding, shard, shard.num_sequences - failed, failed)
    kinds = ["embeddings", "tokens"] if embedding.per_token else ["embeddings"]
    return all(_footer(store.root / kind / embedding.name / shard.file_name) == expected for kind in kinds)


def _footer(path: Path) -> dict[str, object]:
    """What a shard's file says of itself; {} where there is none, or a damaged one, or one that lacks rows."""
    try:
        with pq.ParquetFile(path) as file:
            footer = read_footer(file.schema_arrow.metadata)
            return footer if footer.get("rows") == file.metadata.num_rows else {}
    except (OSError, ValueError, pa.ArrowException):  # ValueError: no UTF-8 or no JSON any more
        return {}


def _plan_path(store: Store, name: str) -> Path:
    return store.root / "embeddings" / name / PLAN_FILE


def _cut(tokens: np.ndarray, first: int, number: int, shard_tokens: int) -> list[Shard]:
    """Consecutive sequences up to `shard_tokens` tokens each; a longer sequence makes a shard of its own."""
    ends = np.cumsum(tokens)
    shards: list[Shard] = []
    begin = done = 0
    while begin < len(tokens):
        end = max(int(np.searchsorted(ends, done + shard_tokens, side="right")), begin + 1)
        shards.append(Shard(number + len(shards), first + begin, first + end, int(ends[end - 1]) - done))
        begin, done = end, int(ends[end - 1])
    return shards
