"""What was done, in a line or two for the person who waits."""

from __future__ import annotations

from index.store import Store
from raypipe.ingest import IngestReport
from raypipe.pipeline import RunReport
from raypipe.wording import did, participle, to_do


def ingest_summary(path: str, report: IngestReport) -> str:
    """One line: what was read, what was new, what was refused and why."""
    source = report.source
    if report.unchanged:
        return f"{path}: ingested before, nothing to do ({source.records:,} records)"
    line = f"{path}: {source.records:,} records, {source.seq_hi - source.seq_lo:,} new distinct sequences"
    if not source.rejected:
        return line
    return f"{line}; {source.rejected:,} rejected, see rejects/ (the first: {report.first_reason})"


def run_summary(store: Store, report: RunReport) -> str:
    """What the run did, and the sums read back from disk."""
    rejected = sum(source.rejected for source in store.sources)
    if report.shards_run:
        rate = report.tokens / max(report.seconds, 1e-9)
        lines = [
            f"{did(report.worked_on)} {report.sequences_run:,} sequences, {report.tokens:,} tokens (padding 0) in "
            f"{report.seconds:.1f} s: {rate:,.0f} tokens/s"
        ]
    else:
        what = "its vector" if report.sets[0].main == "embeddings" else "its predictions"
        what = what if len({made.main for made in report.sets}) == 1 else "its vector and its predictions"
        lines = [f"nothing to {to_do(report.sets)}: every sequence has {what}"]
    before = f"complete: {store.num_records:,} records and {rejected:,} rejects; "
    for made, state in zip(report.sets, report.states, strict=True):
        lines.append(
            f"{before}{state.sequences:,} distinct sequences = {state.made:,} {participle(made)} + {state.failed:,} "
            f"failed, in {made.main}/{made.name}"
        )
        before = "complete: "
    if any(state.failed for state in report.states):
        lines.append(f'why they failed: raypipe sql {store.root} "SELECT source, seq_id, reason FROM rejects"')
    return "\n".join(lines)
