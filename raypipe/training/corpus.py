"""The tokens of a store's sequences in one memory-mapped file, with what the draws need to know of each.

A corpus is made once for a run, from whatever the store holds then, and never changes: the same seed then gives the
same steps. Several processes share its pages.

    corpus/
      ids.u8          nucleotides of all sequences as token ids, end to end, no special tokens
      offsets.npy, weight.npy, family.npy, group.npy, part.npy
      corpus.json     what it was made of
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from index import files
from index.parquet import open_parquet
from index.store import Store
from model.alphabet import Alphabet
from raypipe.disk_errors import disk_error
from raypipe.errors import InputError, UsageError
from raypipe.splits import part_of, place_of
from raypipe.training.labels import UNKNOWN, Labels, coded, group_names, read_labels
from raypipe.training.lookalikes import share_stretch
from raypipe.training.settings import NO_CLANS, PretrainSettings

TRAIN, VALID, LEFT_OUT = 0, 1, 2
_COLUMNS = ("offsets", "weight", "family", "group", "part")
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Corpus:
    """Sequences by their row, which is their seq_id.

    Attributes:
        ids: (T,) uint8, token ids of all nucleotides end to end.
        offsets: (S + 1,) int64, where each sequence begins.
        weight: (S,) float32, how often an epoch reads it.
        family: (S,) int32 code of its family, UNKNOWN where there is none.
        group: (S,) int32 code of its clan, or of its family where it has no clan.
        part: (S,) uint8, TRAIN, VALID or LEFT_OUT.
        about: what it was made of.
    """

    ids: np.ndarray
    offsets: np.ndarray
    weight: np.ndarray
    family: np.ndarray
    group: np.ndarray
    part: np.ndarray
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(S,) int64 nucleotides of each sequence."""
        return np.diff(self.offsets)


def read_about(folder: Path) -> dict[str, Any]:
    """What the corpus in `folder` was made of.

    Raises:
        InputError: it is damaged, or there is none.
    """
    try:
        return json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def open_corpus(folder: Path) -> Corpus:
    """The corpus in `folder`.

    Raises:
        InputError: it is damaged, or there is none.
    """
    about = read_about(folder)
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        tokens = int(arrays["offsets"][-1])
        if (folder / "ids.u8").stat().st_size != tokens:
            raise ValueError(f"ids.u8 holds {(folder / 'ids.u8').stat().st_size} of {tokens} nucleotides")
        ids = np.memmap(folder / "ids.u8", dtype=np.uint8, mode="r", shape=(tokens,))
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    return Corpus(ids=ids, about=about, **arrays)


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: the corpus of this run is damaged ({error}); begin again in another folder")


def make_corpus(folder: Path, store: Store, settings: PretrainSettings, alphabet: Alphabet) -> Corpus:
    """Write the corpus of `store`; it appears whole or not at all.

    Raises:
        UsageError: no such annotation column, or it says nothing.
        InputError: nothing is left to train on.
        RaypipeError: the disk is full.
    """
    count = store.num_sequences
    types = read_labels(store, settings.type_column, "type_column", count)
    families = read_labels(store, settings.family_column, "family_column", count)
    clan_column = None if settings.clan_column == NO_CLANS else settings.clan_column
    clans = read_labels(store, clan_column, "clan_column", count)
    clusters = read_labels(store, settings.valid_column, "valid_column", count)
    names = group_names(store, families, clans)
    tables = {each.table.name: each.table for each in (types, families, clans, clusters) if each.table is not None}
    draft = folder.parent / files.TEMPORARY / f"corpus-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        offsets = _write_ids(draft / "ids.u8", store, alphabet)
        lengths = np.diff(offsets)
        part = _parts(lengths, settings, store, clusters)
        held_out: dict[str, int] = {}
        if settings.hold_out_families:
            ids = np.memmap(draft / "ids.u8", dtype=np.uint8, mode="r", shape=(int(offsets[-1]),))
            held_out = _hold_out(part, families, names, settings.hold_out_like, ids, offsets, alphabet)
        weight = _weights(settings, types, families, part)
        columns = (offsets, weight, families.codes, coded(names, families.codes), part)
        for name, values in zip(_COLUMNS, columns, strict=True):
            np.save(draft / f"{name}.npy", values)
        about = {
            "sources": [
                {"name": Path(source.path).name or source.path, "sha256": source.sha256, "records": source.records}
                for source in store.sources
            ],
            "annotations": [{"name": name, "sha256": tables[name].meta["sha256"]} for name in sorted(tables)],
            "sequences": len(lengths),
            "nucleotides": int(offsets[-1]),
            "trained_on": int((part == TRAIN).sum()),
            "validated_on": int((part == VALID).sum()),
            "left_out": int((part == LEFT_OUT).sum()),
            "held_out": held_out,
            "with_family": int((families.codes != UNKNOWN).sum()),
            "visits": float(weight[part == TRAIN].sum(dtype=np.float64)),
            "vocabulary": list(alphabet.tokens),
        }
        if not (weight[part == TRAIN] > 0).any():
            raise InputError(
                f"{store.root}: no sequence is left to train on; see max_length, hold_out_families, valid_share and "
                f"type_weights"
            )
        (draft / "corpus.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for file in draft.iterdir():
            files.sync(file)
        files.commit(draft, folder)
    except OSError as error:
        raise disk_error(folder.parent, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_corpus(folder)


def _write_ids(path: Path, store: Store, alphabet: Alphabet) -> np.ndarray:
    """Write the token ids of all sequences in the order of their seq_ids; returns where each begins."""
    lengths: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
    with path.open("wb") as file:
        for batch in _batches(store, "sequence"):
            # <unk> for letters that the vocabulary lacks: a sequence in the store is RNA, whatever its letters.
            tokens = alphabet.encode(batch, accept_unknown=True)
            inside = np.ones(len(tokens.ids), dtype=bool)
            inside[tokens.offsets[:-1]] = inside[tokens.offsets[1:] - 1] = False
            file.write(tokens.ids[inside].tobytes())
            lengths.append(tokens.lengths)
    return np.cumsum(np.concatenate(lengths))


def _batches(store: Store, column: str) -> Iterator[list[str]]:
    """A column of the store's sequences, in the order of their seq_ids."""
    for part in store.parts("sequences"):
        for batch in open_parquet(part).iter_batches(_AT_ONCE, columns=[column]):
            yield batch.column(0).to_pylist()


def _parts(lengths: np.ndarray, settings: PretrainSettings, store: Store, clusters: Labels) -> np.ndarray:
    """(S,) uint8: TRAIN, VALID or LEFT_OUT, families apart."""
    part = np.full(len(lengths), TRAIN, dtype=np.uint8)
    if settings.valid_share:
        share = settings.valid_share
        # A sequence of no cluster stands for itself: by its digest, not its place, so that a corpus can grow.
        alone = [place_of(digest) < share for batch in _batches(store, "md5") for digest in batch]
        in_cluster = clusters.look_up([cluster_place(name) < share for name in clusters.names], False)
        part[np.where(clusters.codes == UNKNOWN, alone, in_cluster)] = VALID
    if settings.max_length is not None:
        part[lengths > settings.max_length] = LEFT_OUT
    part[lengths == 0] = LEFT_OUT
    return part


def cluster_place(name: str) -> float:
    """Where the split of validation has a cluster, 0 to below 1.

    Not where `raypipe eval retrieval` has the family of that name: its test families would be the first ones here too.
    """
    return place_of(f"valid_column {name}")


def _hold_out(
    part: np.ndarray,
    families: Labels,
    groups: Sequence[str],
    like: bool,
    ids: np.ndarray,
    offsets: np.ndarray,
    alphabet: Alphabet,
) -> dict[str, int]:
    """Take the validation families to VALID, and the test families out with all that is of one of them.

    Returns:
        Families that were held out, their sequences, and sequences of no known family that look like one of these.

    Raises:
        UsageError: no sequence is of a test family.
    """
    where = np.array([part_of(name) for name in groups])
    # Of a sequence with several families each one counts.
    of_part = {name: np.zeros(len(part), dtype=bool) for name in ("valid", "test")}
    for name, chosen in of_part.items():
        chosen[families.rows[np.isin(families.all_codes, np.flatnonzero(where == name))]] = True
    part[of_part["valid"] & (part != LEFT_OUT)] = VALID
    part[of_part["test"]] = LEFT_OUT
    if not of_part["test"].any():
        raise UsageError(
            f"hold_out_families: none of the {len(groups):,} families here is of the test split, so that there is "
            f"nothing to hold out; leave it out, or see family_column and clan_column"
        )
    kin = np.zeros(len(part), dtype=bool)
    if like:
        kin = share_stretch(ids, offsets, of_part["test"], alphabet.nucleotides) & (families.codes == UNKNOWN)
        part[kin] = LEFT_OUT
    found = {"families": (where == "test").sum(), "sequences": of_part["test"].sum(), "like_them": kin.sum()}
    return {name: int(number) for name, number in found.items()}


def _weights(settings: PretrainSettings, types: Labels, families: Labels, part: np.ndarray) -> np.ndarray:
    """(S,) float32: how often an epoch reads each sequence."""
    unknown = set(settings.type_weights) - set(types.names)
    if unknown:
        known = ", ".join(types.names)
        raise UsageError(f"type_weights: no sequence is of type {', '.join(sorted(unknown))}; there are: {known}")
    weight = types.look_up([settings.type_weights.get(name, 1.0) for name in types.names], 1.0).astype(np.float32)
    if settings.family_cap is not None:
        rows = np.flatnonzero((families.codes != UNKNOWN) & (part == TRAIN))
        sizes = np.bincount(families.codes[rows], minlength=len(families.names))
        weight[rows] = np.minimum(weight[rows], settings.family_cap / sizes[families.codes[rows]])
    return weight
