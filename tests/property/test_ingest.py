"""What holds for any input: nothing is lost, nothing is doubled, and the order is that of the lengths."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from hypothesis import given, settings
from hypothesis import strategies as st

from index.store import Store
from raypipe.ingest import ingest

# Few letters and short: sequences that occur twice, in either spelling, shall be common.
GOOD = st.text("AaCGTtUuN", min_size=1, max_size=6)
BAD = st.text("AC1 -L\u00e9", max_size=4).filter(lambda text: any(letter in "1-L\u00e9" for letter in text))
IDS = st.text("ab7|.", max_size=3)
RECORDS = st.lists(st.tuples(IDS, st.one_of(GOOD, GOOD, GOOD, BAD, st.just(""))), min_size=1, max_size=30)
BREAKS = st.sampled_from(["\n", "\r\n", "\n\n", " \n", "\n# note\n"])


def _fasta(records: list[tuple[str, str]], breaks: str, width: int) -> tuple[str, list[int]]:
    """FASTA text and the line of every header."""
    text, lines = "", []
    for id_, sequence in records:
        lines.append(text.count("\n") + 1)
        wrapped = [sequence[place : place + width] for place in range(0, len(sequence), width)]
        text += f">{id_}\n" + "".join(part + breaks for part in wrapped)
    return text, lines


def _canonical(sequence: str) -> str:
    return sequence.upper().replace("T", "U")


def _usable(id_: str, sequence: str) -> bool:
    return bool(id_) and bool(sequence) and set(_canonical(sequence)) <= set("ACGUN")


def _rows(store: Store, kind: str) -> list[dict[str, Any]]:
    parts = [str(part) for part in store.parts(kind)]
    return ds.dataset(parts).to_table().to_pylist() if parts else []


@settings(max_examples=30, deadline=None)
@given(RECORDS, BREAKS, st.integers(1, 8))
def test_one_source(records: list[tuple[str, str]], breaks: str, width: int) -> None:
    records = [*records, ("last", "ACGU")]  # a source without any usable record is refused
    text, lines = _fasta(records, breaks, width)
    usable = [place for place, record in enumerate(records) if _usable(*record)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.fa"
        path.write_text(text, encoding="utf-8", newline="")
        store = Store.open_or_create(Path(folder) / "atlas")
        with store.lock():
            source = ingest(store, str(path)).source
        sequences, kept, rejects = (_rows(store, kind) for kind in ("sequences", "records", "rejects"))

    assert (source.records, source.rejected) == (len(kept), len(rejects))
    assert len(kept) + len(rejects) == len(records)

    distinct = {_canonical(records[place][1]) for place in usable}
    assert sorted(row["sequence"] for row in sequences) == sorted(distinct)
    assert [row["seq_id"] for row in sequences] == list(range(len(distinct)))
    assert [row["length"] for row in sequences] == sorted(len(sequence) for sequence in distinct)
    for row in sequences:
        assert row["length"] == len(row["sequence"])
        assert row["md5"] == hashlib.md5(row["sequence"].replace("U", "T").encode()).hexdigest()

    by_id = {row["seq_id"]: row["sequence"] for row in sequences}
    assert [(row["ordinal"], row["id"], by_id[row["seq_id"]]) for row in kept] == [
        (ordinal, records[place][0], _canonical(records[place][1])) for ordinal, place in enumerate(usable)
    ]
    refused = [place for place in range(len(records)) if place not in usable]
    assert [(row["line"], row["id"]) for row in rejects] == [
        (lines[place], records[place][0] or None) for place in refused
    ]
    assert all(row["reason"] and row["source"] == str(path) for row in rejects)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(GOOD, min_size=1, max_size=12), min_size=2, max_size=4))
def test_overlapping_sources_add_only_what_is_new(batches: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open_or_create(Path(folder) / "atlas")
        known: dict[str, int] = {}
        given_ids: dict[str, str] = {}
        for number, batch in enumerate(batches):
            path = Path(folder) / f"{number}.fa"
            # The ids make every file's content its own: the same content would be a no-op.
            named = {f"s{number}_{place}": sequence for place, sequence in enumerate(batch)}
            path.write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in named.items()))
            with store.lock():
                source = ingest(store, str(path)).source
                assert ingest(store, str(path)).unchanged
            given_ids.update(named)
            new = {_canonical(sequence) for sequence in batch} - known.keys()
            assert (source.seq_lo, source.seq_hi) == (len(known), len(known) + len(new))
            added = _rows(store, "sequences")[len(known) :]
            assert {row["sequence"] for row in added} == new
            assert [row["length"] for row in added] == sorted(len(sequence) for sequence in new)
            known |= {row["sequence"]: row["seq_id"] for row in added}
        everything = _rows(store, "sequences")
        assert {row["sequence"]: row["seq_id"] for row in everything} == known
        assert sorted(known.values()) == list(range(len(known)))
        assert {row["id"]: row["seq_id"] for row in _rows(store, "records")} == {
            id_: known[_canonical(sequence)] for id_, sequence in given_ids.items()
        }
