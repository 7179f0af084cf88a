"""The sets of a run: those that the store holds already, which have to be the same, and those that begin with it.

A set is asked for with `settings["dtype"]` None and `shard_tokens` 0 where the user leaves them open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TypeVar

from index import files
from index.errors import StoreError
from index.predictions import check_name
from index.receipts import list_files
from index.sets import Embedding, Prediction, ShardedSet
from index.store import Store
from model.config import AidoRnaConfig
from raypipe import plan
from raypipe.compute_types import default_dtype
from raypipe.errors import RaypipeError
from raypipe.settings import RunSettings
from raypipe.work import MAX_SHARD_PAIRS, default_shard_tokens, largest_shard_tokens, sequence_lengths

AnySet = TypeVar("AnySet", bound=ShardedSet)

# What may change under a set's name: where the same files lie now. The fingerprint follows from everything else.
MAY_MOVE = {"model", "model_path", "head", "head_path"}
BESIDE = {"name", "fingerprint", "settings", *MAY_MOVE}

WORDS = {"embeddings": "vectors", "predictions": "predictions"}

# A set takes over a plan whose shards are up to so many times the largest that it would choose, in tokens or in pairs:
# beyond, they are hours of work, or more than the memory holds.
LARGEST_SHARE = 4


def has_begun(store: Store, made: ShardedSet) -> bool:
    """Whether the set of this name has a finished shard, so that its settings are fixed."""
    return made.name in _known(store, made) and _has_parts(store, made)


def settle(store: Store, asked: Sequence[AnySet], *, cuda: bool) -> list[AnySet]:
    """The sets that a run makes, with the compute type that all of them share.

    One that has begun is as the store knows it; without a finished shard nothing is fixed yet, so that a first try that
    failed may be repeated with other settings.

    Args:
        cuda: whether the run will be on CUDA; with the CPU of this machine it decides the compute type where neither
            settings nor store do.

    Raises:
        StoreError: the store holds another set under such a name; the message names the difference.
        RaypipeError: a name cannot be that of a set, or two sets were begun in different compute types.
    """
    for made in asked:
        _check_name(store, made)
    known = [_known(store, made)[made.name] if has_begun(store, made) else None for made in asked]
    older = next((found.settings["dtype"] for found in known if found), None)
    default = older or default_dtype(cuda=cuda)
    settled = [_settle(store, made, found, default) for made, found in zip(asked, known, strict=True)]
    types = {made.settings["dtype"]: made.name for made in settled}
    if len(types) > 1:
        named = " and ".join(f"{name!r} in {dtype}" for dtype, name in types.items())
        raise RaypipeError(
            f"{store.root}: {named} were begun in different compute types, and a run computes in one; go on with each "
            f"in a run of its own (raypipe embed without --heads, raypipe predict --heads HEAD)"
        )
    return settled


def begin(store: Store, sets: Sequence[AnySet], config: AidoRnaConfig, workers: int, *, cuda: bool) -> list[AnySet]:
    """Enter those of `sets` that have no finished shard into the manifest, the size of their shards settled.

    Where another set of the run has begun they take over its plan, so that one pass of the model serves both. The
    caller holds `store.lock()`.

    Raises:
        StoreError: a folder holds files of a set that the manifest does not know.
    """
    older = [made for made in sets if has_begun(store, made)]
    newer = [made for made in sets if made not in older]
    if not newer:
        return list(sets)
    for made in newer:
        folder = store.root / made.main / made.name
        if _has_parts(store, made):
            raise StoreError(
                f"{folder}: holds {WORDS[made.main]} that store.json does not know; restore store.json from a copy, or "
                f"remove the folder"
            )
    lengths = sequence_lengths(store, 0)
    most = LARGEST_SHARE * largest_shard_tokens(config, newer, lengths, cuda=cuda)
    like = next((made for made in older if made.shard_tokens <= most and _fits(store, made, newer, config)), None)
    size = like.shard_tokens if like else newer[0].shard_tokens
    size = size or default_shard_tokens(config, newer, lengths, workers, cuda=cuda)
    begun = []
    for made in sets:
        if made in newer:
            # What else the run was told is in the set's own fields, or is another set's.
            run = {name: made.settings[name] for name in RunSettings.model_fields}
            run |= {"shard_tokens": size, "workers": workers, "cuda": cuda}
            made = replace(made, shard_tokens=size, settings=run)
            plan.begin_plan(store, made, like)
            files.write_json(store.root / made.main / made.name / "settings.json", asdict(made), store.root)
            put(store, made)
        begun.append(made)
    return begun


def put(store: Store, made: ShardedSet) -> None:
    """Bring the manifest's entry of a set up to date. The caller holds `store.lock()`."""
    if _known(store, made).get(made.name) == made:
        return
    if isinstance(made, Embedding):
        store.put_embedding(made)
    elif isinstance(made, Prediction):
        store.put_prediction(made)


def _check_name(store: Store, made: ShardedSet) -> None:
    if isinstance(made, Prediction):
        check_name(store, made.name)
    elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", made.name):
        raise RaypipeError(f"--name {made.name!r}: use letters, digits, '.', '_' and '-' only")


def _fits(store: Store, planned: ShardedSet, newer: Sequence[ShardedSet], config: AidoRnaConfig) -> bool:
    """Whether no shard of a plan gives more pairs than the sets that would take it over can hold."""
    return plan.most_pairs(store, planned, newer, config.context) <= LARGEST_SHARE * MAX_SHARD_PAIRS


def _settle(store: Store, asked: AnySet, known: ShardedSet | None, default_dtype: str) -> AnySet:
    compute = asked.settings["dtype"] or (known.settings["dtype"] if known else default_dtype)
    size = asked.shard_tokens or (known.shard_tokens if known else 0)
    asked = replace(asked, shard_tokens=size, settings={**asked.settings, "dtype": compute})
    if known is None:
        return asked
    _refuse_difference(store, known, asked)
    # The same weights may have moved; everything else stays as it was begun.
    return replace(asked, settings=known.settings)


def _has_parts(store: Store, made: ShardedSet) -> bool:
    # Not by `store.set_parts`: ten thousand paths, sorted, to know whether there is one.
    return any(re.fullmatch(r"part-.*\.parquet", name) for name in list_files(store.root / made.main / made.name))


def _known(store: Store, made: ShardedSet) -> Mapping[str, ShardedSet]:
    """What the store holds of the kind of `made`, by name."""
    return store.embeddings if isinstance(made, Embedding) else store.predictions


def _refuse_difference(store: Store, known: ShardedSet, asked: ShardedSet) -> None:
    pairs = {f.name: (getattr(known, f.name), getattr(asked, f.name)) for f in fields(known) if f.name not in BESIDE}
    differences = [
        # Twelve digits of a fingerprint say enough.
        f"{name} {str(there)[:12]} there, {str(here)[:12]} asked for"
        for name, (there, here) in pairs.items()
        if there != here
    ]
    if known.settings["dtype"] != asked.settings["dtype"]:
        differences.append(f"computed in {known.settings['dtype']} there, {asked.settings['dtype']} asked for")
    if differences:
        raise StoreError(
            f"{store.root}: its {WORDS[known.main]} {known.name!r} were made by {known.model} with other settings "
            f"({'; '.join(differences)}); give the same, or {_instead(store, asked)}"
        )


def _instead(store: Store, asked: ShardedSet) -> str:
    """How to have `asked` beside what its name stands for."""
    if not isinstance(asked, Prediction):
        return "choose another --name"
    # In full: the --name of raypipe embed is that of its vectors.
    command = f"predict {store.root} --heads {asked.head_path or asked.head}"
    if asked.head is None:
        command = f"mlm {store.root} --what {asked.task}"
    return f"make them on their own, under another name: raypipe {command} --name NAME"
