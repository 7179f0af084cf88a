"""The verb that says what a run would cost: plan."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from index.places import is_uri
from index.store import Store
from model import registry
from raypipe.checkpoints import Checkpoint, find_checkpoint, find_heads
from raypipe.cli.arguments import is_atlas, name_stdin
from raypipe.cli.making import refuse_missing
from raypipe.errors import UsageError
from raypipe.predictions import describe_heads
from raypipe.settings import EmbedSettings, PlanSettings
from raypipe.vectors import describe_vectors
from raypipe.wording import duration, size
from raypipe.work import sequence_lengths

PLANNING = PlanSettings()


def plan(
    *inputs: Annotated[str, Parameter(help="An atlas, or sequence files (FASTA, FASTQ, tables; also compressed).")],
    settings: PlanSettings = PLANNING,
    format: Annotated[Literal["text", "json"], Parameter(help="json: one object.")] = "text",
) -> None:
    """Say what embedding would cost: tokens, operations, hours, shards, bytes, memory of the index."""
    from raypipe.cost import DEVICES, estimate, measure_flops, read_lengths

    if not inputs:
        raise UsageError("name an atlas or sequence files: raypipe plan ATLAS --model MODEL --device h200 --gpus 8")
    unused = "gpus" if settings.device == "cpu" else "cpus"
    if unused in settings.model_fields_set:
        raise UsageError(
            f"--{unused}: there are none with --device {settings.device}; name another device, or give "
            f"{'--cpus' if unused == 'gpus' else '--gpus'}"
        )
    if settings.measure and settings.device != "cpu":
        raise UsageError(
            f"--measure: runs the model on this machine's CPU; it tells nothing of --device {settings.device}"
        )
    if settings.measure and settings.utilisation is not None:
        raise UsageError("--measure, --utilisation: what is measured is not assumed; give one of them")
    checkpoint = _checkpoint(settings)
    asked = EmbedSettings(
        **{name: getattr(settings, name) for name in ("model", "on_long", "per_token", "store_dtype")}
    )
    heads = describe_heads(asked, checkpoint, find_heads(checkpoint, settings.heads)) if settings.heads else []
    sets = [describe_vectors(asked, checkpoint), *heads]
    atlas = next((path for path in inputs if is_atlas(path)), None)
    if atlas and len(inputs) > 1:
        raise UsageError(f"{atlas}: is an atlas; name it alone, or files alone")
    if not atlas:
        refuse_missing(inputs)
    lengths = sequence_lengths(Store.open(atlas), 0) if atlas else read_lengths(name_stdin(inputs))
    if not len(lengths):
        raise UsageError(f"{', '.join(inputs)}: holds no sequences")
    device = DEVICES[settings.device]
    if settings.utilisation:
        device = replace(device, utilisation=settings.utilisation)
    number = settings.gpus if settings.device != "cpu" else settings.cpus or len(os.sched_getaffinity(0))
    rate = measure_flops(checkpoint, lengths) if settings.measure else device.peak * device.utilisation
    cost = estimate(lengths, checkpoint.config, sets, settings.device, number, rate)
    if cost.tokens == 0:
        raise UsageError(f"all {cost.refused:,} sequences are longer than the model's context; see --on-long")
    free = shutil.disk_usage(atlas).free if atlas and not is_uri(atlas) else None
    if format == "json":
        about = {"model": checkpoint.name, "device": settings.device, "devices": number, "free_bytes": free}
        print(json.dumps({**about, **asdict(cost), "bytes": cost.bytes}))
        return
    how = "measured here on one core" if settings.measure else f"{device.utilisation:.0%} of {device.peak:.3g}, assumed"
    for name, text in _lines(cost, checkpoint, settings.device, number, how):
        print(f"{name:12} {text}")
    if free is not None:
        enough = "" if free > cost.bytes + cost.index_disk_bytes else ": NOT ENOUGH for the output and its index"
        print(f"{'disk':12} {size(free)} free at {atlas}{enough}")


def _checkpoint(settings: PlanSettings) -> Checkpoint:
    """The model; of one that the registry knows its dimensions suffice, and nothing is fetched."""
    entry = registry.find(settings.model)
    if entry is None or entry.folder or settings.heads or settings.measure or Path(settings.model).is_dir():
        return find_checkpoint(settings.model)
    return Checkpoint(entry.name, entry.name, entry.name, "", entry.config, entry.trained)


def _lines(cost: Any, checkpoint: Checkpoint, device: str, number: int, how: str) -> Sequence[tuple[str, str]]:
    config = checkpoint.config
    refused = f", {cost.refused:,} of them refused" if cost.refused else ""
    median, longest = cost.shard_seconds
    work = cost.linear + cost.attention + cost.heads
    each = f"{number} cores" if device == "cpu" else f"{number} x {device}"
    lines = [
        ("model", f"{checkpoint.name}: {config.num_layers} layers of {config.hidden_size}"),
        (
            "sequences",
            f"{cost.sequences:,} distinct{refused}, {cost.nucleotides:,} nt, longest {cost.longest:,} nt",
        ),
        ("tokens", f"{cost.tokens:,} (specials and overlapping windows counted; no padding)"),
        (
            "operations",
            f"{work:.3g} ({_share(cost.linear, work)} linear maps, {_share(cost.attention, work)} attention, "
            f"{_share(cost.heads, work)} heads over pairs)",
        ),
        (
            "time",
            f"{duration(cost.seconds)} on {each}, {cost.tokens / cost.seconds:,.0f} tokens/s in all: "
            f"{cost.rate:.3g} operations/s each ({how}), 5 % for all that is not the model",
        ),
        (
            "shards",
            f"{cost.shards:,} of up to {cost.shard_tokens:,} tokens; one takes {duration(median)}, the longest "
            f"{duration(longest)}",
        ),
    ]
    where = "a core's share of memory" if device == "cpu" else "each GPU"
    lines.append(("memory", f"{size(cost.worker_bytes)} of {where} for weights and a batch, computed"))
    for output in cost.outputs:
        lines.append(("output", f"{output.folder}: {'' if output.exact else 'at most '}{size(output.bytes)}"))
    return [
        *lines,
        ("index", f"{cost.index}: {size(cost.index_bytes)} of memory, {size(cost.index_disk_bytes)} on disk"),
    ]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"
