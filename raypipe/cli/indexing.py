"""The verb that makes an index, plans one, and checks one: index."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, Parameter, Token

from index.errors import StoreError, UnreachableError
from index.info import FLAT, TARGET, IndexInfo, current_info, rebuild, usual_transform
from index.store import Store
from index.truth import SAMPLE
from raypipe.cli.making import AtlasPath
from raypipe.cli.progress import CountProgress, say
from raypipe.completeness import check_set, check_sources
from raypipe.errors import IncompleteError, RaypipeError, UsageError
from raypipe.wording import duration, size

BUILD = "a build"
# What each option has a use for; the first of the options that are modes counts.
MODES = ("plan", "verify", "compact")
USES = {
    "type": (BUILD, "plan"),
    "transform": (BUILD, "plan"),
    "recall": (BUILD, "plan"),
    "name": (BUILD, "plan"),
    "address": (BUILD, "compact"),
    "device": (BUILD, "compact"),
    "anew": (BUILD,),
    "rows": ("plan",),
    "sample": ("verify",),
    "format": ("plan", "verify"),
}


def index(
    atlas: AtlasPath,
    *,
    type: Annotated[
        str | None, Parameter(help="flat (exact), auto (by size, the default), or a FAISS factory string.")
    ] = None,
    transform: Annotated[
        str | None,
        Parameter(
            help="What vectors and queries go through before they are compared, learned from this atlas: auto (the "
            "default: whiten from 50 vectors on), none (raw cosines, the default of --type flat), center, whiten, "
            "whiten:DIM or pca:DIM (keep DIM axes); or index/VERSION/transform.npz of another atlas, so that scores "
            "can be compared."
        ),
    ] = None,
    recall: Annotated[
        float | None,
        Parameter(
            help=f"Recall@10 that an approximate type has to reach, {TARGET} by default; below it nothing is published."
        ),
    ] = None,
    name: Annotated[str | None, Parameter(help="Set of vectors; by default the indexed or only one.")] = None,
    address: Annotated[
        str | None,
        Parameter(help="Ray cluster whose machines make the segments; by default $RAY_ADDRESS, or here."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        Parameter(help="What learns lists and fills them; by default a GPU if there is one."),
    ] = None,
    anew: Annotated[
        bool, Parameter(help="Learn and build all again, where new vectors would only be added.", negative="")
    ] = False,
    compact: Annotated[
        bool, Parameter(help="Make few large segments of many small ones; nothing is learned anew.", negative="")
    ] = False,
    plan: Annotated[
        bool, Parameter(help="Build nothing; say what it would take: memory, disk, time.", negative="")
    ] = False,
    rows: Annotated[int | None, Parameter(help="With --plan: for so many vectors instead.")] = None,
    verify: Annotated[
        bool, Parameter(help="Build nothing; compare the live index with exact search.", negative="")
    ] = False,
    sample: Annotated[int | None, Parameter(help=f"With --verify: vectors to search for, {SAMPLE} by default.")] = None,
    format: Annotated[
        Literal["text", "json"] | None, Parameter(help="With --plan or --verify: text, or json for one object.")
    ] = None,
) -> None:
    """Build the nearest-neighbour index of an atlas and publish it.

    Vectors that came since the last time are added to it, until they are a quarter of those that it was learned from;
    then it is built anew. A build that was cut off goes on where it stopped.
    """
    from index.build import build_index, choose_embedding, one_by_one
    from index.transform_files import is_file
    from index.transforms import parse_kind
    from raypipe.index_build import on_cluster
    from raypipe.nearest import TorchNearest
    from raypipe.resources import local_cuda

    _refuse_useless(
        plan=plan or None,
        verify=verify or None,
        compact=compact or None,
        anew=anew or None,
        type=type,
        transform=transform,
        recall=recall,
        name=name,
        address=address,
        device=device,
        rows=rows,
        sample=sample,
        format=format,
    )
    type, recall = type or "auto", TARGET if recall is None else recall
    transform = transform or usual_transform(type)
    if not is_file(transform):
        try:
            parse_kind(transform)
        except StoreError as error:
            raise UsageError(str(error)) from None
    if not 0 < recall <= 1:
        raise UsageError(f"--recall {recall:g}: must be above 0 and at most 1")
    store = Store.open(atlas)
    if plan or verify:
        sample = SAMPLE if sample is None else sample
        _tell(_planned(store, name, type, transform, rows, recall) if plan else _verified(store, sample), format)
        return
    cluster = address or os.environ.get("RAY_ADDRESS")
    if device == "cuda" and not cluster and not local_cuda():
        raise RaypipeError("--device cuda: torch sees no GPU on this machine; leave the option out")
    with store.lock():
        # An index over a part of the sequences would look whole to everyone who searches it.
        missing = [*check_sources(store), *check_set(store, choose_embedding(store, name)).messages]
        if missing:
            raise IncompleteError(
                f"{store.root}: not all is embedded ({'; '.join(missing)}); run raypipe embed {store.root} with its "
                f"options again, then index"
            )
        before = _live(store)
        info = build_index(
            store,
            name,
            kind=type,
            transform=transform,
            recall=recall,
            anew=anew,
            compact=compact,
            nearest=TorchNearest(device or "auto"),
            run=on_cluster(cluster) if cluster else one_by_one,
            progress=CountProgress("vectors indexed"),
        )
    what = f"{info.type}, {info.rows:,} vectors of {info.embeddings}, {info.space}"
    if info.unchanged:
        say(f"index {info.version}: up to date ({what})")
        return
    if info.added_rows:
        what += f" ({info.added_rows:,} of them added to an index learned from {info.learned_rows:,})"
    if len(info.segments) > 1:
        what += f", {len(info.segments)} segments"
    say(f"index {info.version}: {what}; {_measured(info)}")
    had, has = (one.transform.get("sha256") if one else None for one in (before, info))
    if before is not None and had != has:
        say(
            f"scores are of another space than those of index {before.version}, and not to be compared with them: "
            f"{before.space} ({str(had)[:12]}), now {info.space} ({str(has)[:12]})"
        )


def pass_over(_: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Forget settings of the file and the environment that have no use here; see `predicting.pass_over`."""
    if commands != ("index",):
        return
    given = {argument.field_info.name: argument for argument in arguments}
    mode = next((mode for mode in MODES if any(_is_true(token) for token in given[mode].tokens)), BUILD)
    for name, uses in USES.items():
        if mode not in uses and all(token.source != "cli" for token in given[name].tokens):
            given[name].tokens.clear()


def _is_true(token: Token) -> bool:
    """Of a flag on the command line, where it has no value, or of what the environment or the file says."""
    return token.implicit_value is True or str(token.value).strip().lower() in ("true", "yes", "y", "t", "1", "on")


def _refuse_useless(**options: object) -> None:
    """Raises UsageError for an option that says nothing of what is asked."""
    given = [name for name, value in options.items() if value is not None]
    asked = [mode for mode in MODES if mode in given]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]}, --{asked[1]}: are asked one at a time; give one of them")
    mode = asked[0] if asked else BUILD
    for name, uses in USES.items():
        if name in given and mode not in uses:
            where = " or ".join(use if use == BUILD else f"--{use}" for use in uses)
            why = " (--compact keeps what the live index has)" if mode == "compact" and BUILD in uses else ""
            raise UsageError(f"--{name}: has a use with {where} only{why}; leave it out")


def _measured(info: IndexInfo) -> str:
    """What the search effort is, and the recall that it was measured to have."""
    known = info.operating
    if not known:
        return "exact" if info.type == FLAT else "too few vectors to measure its recall"
    effort = ", ".join(f"{name} {known[name]:g}" for name in ("nprobe", "ef_search", "k_factor") if name in known)
    by = f" by {effort}" if effort else ""
    measured = f"{known['recall_at_10']:g} (standard error {known['error']:g})"
    return f"recall@10 {measured}{by}, measured with {known['sample']} of its vectors"


def _live(store: Store) -> IndexInfo | None:
    """The live index; None also where it is damaged, since a build replaces it."""
    try:
        return current_info(store)
    except UnreachableError:
        raise
    except StoreError:
        return None


def _planned(
    store: Store, name: str | None, kind: str, transform: str, rows: int | None, recall: float
) -> list[tuple[str, Any, str]]:
    from index.build import choose_embedding
    from index.planning import plan_index
    from index.transform_files import find

    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows}: must be at least 1")
    embedding = choose_embedding(store, name)
    wanted = find(transform, embedding.fingerprint, embedding.dimension)
    if rows is None:  # as many as there will be when all is embedded
        rows = store.num_sequences - check_set(store, embedding).failed
    planned = plan_index(rows, embedding.dimension, kind, transform=wanted, trial=True)
    exact = planned.type == FLAT
    fits = "all of it is compared with every query" if exact else "what searches read again and again"
    told, known = "exact", 1.0
    if not exact:
        told = f"at least {recall:g}, measured when it is built, or it is not published (--recall)"
        known, live = None, _live(store)
        if live and live.operating and (live.type, live.embeddings) == (planned.type, embedding.name):
            known = live.operating["recall_at_10"]
            told += f"; {known:g} measured for index {live.version}, of this type and {live.rows:,} vectors"
    return [
        ("type", planned.type, planned.type),
        ("rows", planned.rows, f"{planned.rows:,} vectors of {planned.dimension} values"),
        ("memory_bytes", planned.hot_bytes, f"{size(planned.hot_bytes)}: {fits}"),
        ("disk_bytes", planned.disk_bytes, f"{size(planned.disk_bytes)}, memory-mapped"),
        ("build_bytes", planned.build_bytes, f"{size(planned.build_bytes)} of memory while it is built"),
        (
            "core_seconds",
            planned.core_seconds,
            "nothing" if planned.core_seconds is None else f"{duration(planned.core_seconds)} of one core like these",
        ),
        ("recall", known, told),
        ("target", None if exact else recall, ""),
    ]


def _verified(store: Store, sample: int) -> list[tuple[str, Any, str]]:
    from index.audit import audit

    if sample < 1:
        raise UsageError(f"--sample {sample}: must be at least 1")
    found = audit(store, sample)
    said = {
        "recall_at_10": f"{found.recall:.4f} (standard error {found.error:.4f}) against exact search, ties counted, by "
        f"{found.queries:,} vectors",
        "target": "none: the type is exact" if found.target is None else f"{found.target:g}",
        "batch_ms": f"{found.batch_ms:.3f} ms a query, all at once",
        "p50_ms": f"{found.p50_ms:.3f} ms a query, one at a time",
        "p99_ms": f"{found.p99_ms:.3f} ms",
        "opened_ms": f"{found.opened_ms:.1f} ms to open it",
        "private_bytes": f"{size(found.private_bytes)} of memory of this process's own for it",
        "mapped_bytes": f"{size(found.mapped_bytes)} of its files in memory, shared with others",
        "disk_bytes": f"{size(found.disk_bytes)} on disk",
    }
    values = found.to_json()
    # Two standard errors: less may be the chance of the sample.
    if found.target is not None and found.recall + 2 * found.error < found.target:
        more = round((1 + found.target) / 2, 4)
        command = rebuild(store, replace(current, operating={})) if (current := current_info(store)) else ""
        say(
            f"the recall is below the {found.target:g} that the index was built for; ask for more, which measures "
            f"again and builds nothing: {command} --recall {more:g}"
        )
    return [(name, values[name], text) for name, text in said.items()]


def _tell(lines: list[tuple[str, Any, str]], format: str | None) -> None:
    if format == "json":
        print(json.dumps({name: value for name, value, _ in lines}))
        return
    for name, _, text in lines:
        if text:
            print(f"{name.removesuffix('_bytes').removesuffix('_ms').replace('_', ' '):14} {text}")
