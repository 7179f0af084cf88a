"""What was done, in a line or two for the person who waits."""

from __future__ import annotations

from index.store import Store
from raypipe.ingest import IngestReport
from raypipe.pipeline import EmbedReport


def ingest_summary(path: str, report: IngestReport) -> str:
    """One line: what was read, what was new, what was refused and why."""
    source = report.source
    if report.unchanged:
        return f"{path}: ingested before, nothing to do ({source.records:,} records)"
    line = f"{path}: {source.records:,} records, {source.seq_hi - source.seq_lo:,} new distinct sequences"
    if not source.rejected:
        return line
    return f"{line}; {source.rejected:,} rejected, see rejects/ (the first: {report.first_reason})"


def embed_summary(store: Store, report: EmbedReport) -> str:
    """What the run did, and the two sums read back from disk."""
    state = report.completeness
    rejected = sum(source.rejected for source in store.sources)
    lines = []
    if report.shards_run:
        rate = report.tokens / max(report.seconds, 1e-9)
        lines.append(
            f"embedded {report.sequences_run:,} sequences, {report.tokens:,} tokens (padding 0) in "
            f"{report.seconds:.1f} s: {rate:,.0f} tokens/s"
        )
    else:
        lines.append("nothing to embed: every sequence has its vector")
    lines.append(
        f"complete: {store.num_records:,} records and {rejected:,} rejects; {state.sequences:,} distinct sequences = "
        f"{state.embedded:,} embedded + {state.failed:,} failed, in embeddings/{report.embedding.name}"
    )
    if state.failed:
        lines.append(f'why they failed: raypipe sql {store.root} "SELECT seq_id, reason FROM rejects"')
    return "\n".join(lines)
