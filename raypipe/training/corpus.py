"""The tokens of a store's sequences in one memory-mapped file, with what the draws need to know of each.

A corpus is made once for a run, from whatever the store holds then, and never changes: the same seed then gives the
same steps. Several processes share its pages.

    corpus/
      ids.u8          nucleotides of all sequences as token ids, end to end, no special tokens
      columns.npz     offsets, weight, family, group, part
      corpus.json     what it was made of
"""

from __future__ import annotations

import json
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from index import duck, files
from index.annotation_tables import list_tables
from index.sql import query
from index.store import Store
from model.alphabet import Alphabet
from raypipe.errors import InputError, UsageError, disk_error
from raypipe.splits import family_group, part_of
from raypipe.training.lookalikes import share_stretch
from raypipe.training.settings import NO_CLANS, PretrainSettings

TRAIN, VALID, LEFT_OUT = 0, 1, 2
UNKNOWN = -1
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
        with np.load(folder / "columns.npz") as columns:
            arrays = {name: columns[name] for name in ("offsets", "weight", "family", "group", "part")}
        tokens = int(arrays["offsets"][-1])
        if (folder / "ids.u8").stat().st_size != tokens:
            raise ValueError(f"ids.u8 holds {(folder / 'ids.u8').stat().st_size} of {tokens} nucleotides")
        ids = np.memmap(folder / "ids.u8", dtype=np.uint8, mode="r", shape=(tokens,))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
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
    names = _group_names(families, clans)
    groups = _coded(names, families.codes)
    draft = folder.parent / files.TEMPORARY / f"corpus-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        offsets = _write_ids(draft / "ids.u8", store, alphabet)
        lengths = np.diff(offsets)
        part = _parts(lengths, settings, store, clusters)
        like_held_out = 0
        if settings.hold_out_families:
            ids = np.memmap(draft / "ids.u8", dtype=np.uint8, mode="r", shape=(int(offsets[-1]),))
            like_held_out = _hold_out(part, families, names, settings.hold_out_like, ids, offsets, alphabet)
        weight = _weights(settings, types, families, part)
        np.savez(
            draft / "columns.npz",
            offsets=offsets,
            weight=weight,
            family=families.codes,
            group=groups,
            part=part,
        )
        about = {
            "sources": [
                {"name": Path(source.path).name or source.path, "sha256": source.sha256, "records": source.records}
                for source in store.sources
            ],
            "sequences": len(lengths),
            "nucleotides": int(offsets[-1]),
            "trained_on": int((part == TRAIN).sum()),
            "validated_on": int((part == VALID).sum()),
            "left_out": int((part == LEFT_OUT).sum()),
            "like_held_out": like_held_out,
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
        for batch in pq.ParquetFile(part).iter_batches(_AT_ONCE, columns=[column]):
            yield batch.column(0).to_pylist()


@dataclass(frozen=True)
class Labels:
    """A text for some of the sequences.

    Attributes:
        names: the distinct texts.
        codes: (S,) int32, the place of each sequence's text in `names`, UNKNOWN where it has none.
        rows, all_codes: (P,) every pair of a sequence and one of its texts; some have several.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    rows: np.ndarray
    all_codes: np.ndarray

    def look_up(self, values: Sequence[Any], otherwise: Any) -> np.ndarray:
        """(S,) of the values of each sequence's text, given in the order of `names`."""
        return np.array([*values, otherwise])[self.codes]


def read_labels(store: Store, column: str | None, setting: str, count: int) -> Labels:
    """An annotation column of all sequences; of several values of one the first by alphabet.

    Args:
        store: with annotations.
        column: its name, as table.column where several tables have it; None gives no texts.
        setting: what names the column, for messages.
        count: S.

    Raises:
        UsageError: no such column, or it says nothing.
    """
    codes = np.full(count, UNKNOWN, dtype=np.int32)
    if column is None:
        return Labels((), codes, codes[:0], codes[:0])
    table, _, name = column.rpartition(".")
    tables = list_tables(store)
    owners = [found.name for found in tables if name in found.columns and table in ("", found.name)]
    if len(owners) != 1:
        known = ", ".join(f"{found.name}.{c}" for found in tables for c in found.columns if c not in ("seq_id", "id"))
        why = "is in several tables, write table.column" if owners else "is no annotation column"
        raise UsageError(f"{setting}: {column!r} {why}; there are: {known or 'none; give --annotations NAME=FILE'}")
    value = f"CAST({duck.identifier(name)} AS VARCHAR)"
    found = query(
        store,
        f"SELECT DISTINCT seq_id, {value} AS value FROM {duck.identifier(owners[0])} WHERE {value} <> ''",
    )
    if not len(found):
        raise UsageError(f"{setting}: {column!r} has no value for any sequence")
    coded = found["value"].combine_chunks().dictionary_encode()
    names = np.array(coded.dictionary.to_pylist())
    order = np.argsort(names)
    place = np.empty(len(names), dtype=np.int32)
    place[order] = np.arange(len(names))
    rows, all_codes = found["seq_id"].to_numpy().astype(np.int64), place[coded.indices.to_numpy()]
    # Written from the last by alphabet to the first, which stays.
    backwards = np.lexsort((rows, -all_codes))
    codes[rows[backwards]] = all_codes[backwards]
    return Labels(tuple(names[order].tolist()), codes, rows, all_codes)


def _group_names(families: Labels, clans: Labels) -> list[str]:
    """What keeps related families together, for each of them: its clan, else the family.

    A sequence of several families has the clans of all: a family's own is that of most of its sequences.
    """
    owners = families.codes[clans.rows]
    known = owners != UNKNOWN
    kinds, counts = np.unique(np.stack([owners, clans.all_codes], axis=1)[known], axis=0, return_counts=True)
    clan_of: dict[int, str] = {}
    for i in np.lexsort((-kinds[:, 1], counts)):
        clan_of[int(kinds[i, 0])] = clans.names[kinds[i, 1]]
    return [family_group(name, clan_of.get(code)) for code, name in enumerate(families.names)]


def _coded(names: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """(S,) int32 codes of the names of what has `codes`; UNKNOWN stays."""
    number = {name: code for code, name in enumerate(sorted(set(names)))}
    return np.array([*(number[name] for name in names), UNKNOWN], dtype=np.int32)[codes]


def _parts(lengths: np.ndarray, settings: PretrainSettings, store: Store, clusters: Labels) -> np.ndarray:
    """(S,) uint8: TRAIN, VALID or LEFT_OUT, families apart."""
    part = np.full(len(lengths), TRAIN, dtype=np.uint8)
    if settings.valid_share:
        shares = {"valid": settings.valid_share}
        in_cluster = clusters.look_up([part_of(name, shares) == "valid" for name in clusters.names], False)
        # A sequence of no cluster stands for itself: by its digest, not its place, so that a corpus can grow.
        digests = (digest for batch in _batches(store, "md5") for digest in batch)
        for row, digest in enumerate(digests):
            chosen = in_cluster[row] if clusters.codes[row] != UNKNOWN else part_of(digest, shares) == "valid"
            if chosen:
                part[row] = VALID
    if settings.max_length is not None:
        part[lengths > settings.max_length] = LEFT_OUT
    part[lengths == 0] = LEFT_OUT
    return part


def _hold_out(
    part: np.ndarray,
    families: Labels,
    groups: Sequence[str],
    like: bool,
    ids: np.ndarray,
    offsets: np.ndarray,
    alphabet: Alphabet,
) -> int:
    """Take the validation families to VALID, and the test families out with all that is of one of them.

    Returns:
        Sequences of no known family that were taken out because they look like one of the test families.
    """
    where = np.array([part_of(name) for name in groups])
    # Of a sequence with several families each one counts.
    of_part = {name: np.zeros(len(part), dtype=bool) for name in ("valid", "test")}
    for name, chosen in of_part.items():
        chosen[families.rows[np.isin(families.all_codes, np.flatnonzero(where == name))]] = True
    part[of_part["valid"] & (part != LEFT_OUT)] = VALID
    part[of_part["test"]] = LEFT_OUT
    if not like:
        return 0
    kin = share_stretch(ids, offsets, of_part["test"], alphabet.nucleotides) & (families.codes == UNKNOWN)
    part[kin] = LEFT_OUT
    return int(kin.sum())


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
