"""From inputs to the store's tables: what is kept, what is rejected, what is refused, and what is done only once."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from index.schema import RECORDS, REJECTS, SEQUENCES
from index.store import Store
from raypipe.errors import InputError, RaypipeError
from raypipe.fasta_blocks import read_blocks
from raypipe.ingest import IngestReport, ingest
from tests.made import on_disk

Ingest = Callable[..., IngestReport]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """In a folder whose name DuckDB would take for a pattern, or for the end of a string."""
    return Store.open_or_create(tmp_path / 'it\'s [a] "st*re"')


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Ingest:
    """Writes a file and ingests it; `None` ingests what stands there."""

    def write_and_ingest(text: str | bytes | None, name: str = "in.fa", **options: Any) -> IngestReport:
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        with store.lock():
            return ingest(store, str(path), **options)

    return write_and_ingest


def rows(store: Store, kind: str) -> list[dict[str, Any]]:
    parts = [str(part) for part in store.parts(kind)]
    return ds.dataset(parts).to_table().to_pylist() if parts else []


def test_distinct_sequences_once_records_as_given_rejects_with_a_reason(store: Store, add: Ingest) -> None:
    report = add(">a one\nGGUC\n>b\nggtc\n\n# note\n>c\nAC\n>bad x\nMKL\n>a\nACGUU\n>\nAC\n>e\n")
    assert rows(store, "sequences") == [
        {"seq_id": number, "md5": hashlib.md5(dna).hexdigest(), "length": len(rna), "sequence": rna}
        for number, (rna, dna) in enumerate([("AC", b"AC"), ("GGUC", b"GGTC"), ("ACGUU", b"ACGTT")])
    ]
    source = report.source.path
    assert [tuple(row.values()) for row in rows(store, "records")] == [
        ("a", "one", source, 0, 1),
        ("b", "", source, 1, 1),
        ("c", "", source, 2, 0),
        ("a", "", source, 3, 2),
    ]
    assert [tuple(row.values()) for row in rows(store, "rejects")] == [
        (source, 9, "bad", None, "letter 'L' at position 3 is no nucleotide; this looks like protein"),
        (source, 13, None, None, "no id in its header; give every record a name"),
        (source, 15, "e", None, "empty sequence"),
    ]
    assert (report.source.records, report.source.rejected) == (4, 3)
    assert report.first_reason == "line 9, bad: letter 'L' at position 3 is no nucleotide; this looks like protein"


def test_tables_have_the_stores_schemas(store: Store, add: Ingest) -> None:
    add(">a\nAC\n>b\nL\n")
    for kind, schema in (("sequences", SEQUENCES), ("records", RECORDS), ("rejects", REJECTS)):
        for part in store.parts(kind):
            assert pq.read_schema(part).equals(schema), kind


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("in.fq", "@a\nAC\n+\nII\n@b\nLL\n+\nII\n", 5),
        ("in.csv", "id,sequence\na,AC\n\nb,LL\n", 4),
        ("in.tsv", "id\tsequence\na\tAC\nb\tLL\n", 3),
    ],
)
def test_rejects_know_their_line(store: Store, add: Ingest, name: str, text: str, line: int) -> None:
    add(text, name)
    (reject,) = rows(store, "rejects")
    assert (reject["line"], reject["id"]) == (line, "b")
    assert reject["source"].endswith(name)


def test_numeric_looking_ids_stay_text(store: Store, add: Ingest) -> None:
    add("id,sequence\n007,AC\n1e5,GU\n", "in.csv")
    assert [row["id"] for row in rows(store, "records")] == ["007", "1e5"]


def test_the_same_content_again_is_a_no_op(store: Store, add: Ingest) -> None:
    first = add(">a\nAC\n")
    before = (store.root / "store.json").read_bytes()
    again = add(None)
    elsewhere = add(">a\nAC\n", "copy.fa")
    assert (first.unchanged, again.unchanged, elsewhere.unchanged) == (False, True, True)
    assert again.source == first.source
    assert (store.root / "store.json").read_bytes() == before


def test_changed_content_is_refused_unless_asked_for(store: Store, add: Ingest) -> None:
    add(">a\nAC\n")
    with pytest.raises(InputError, match=r"in\.fa: has changed since it was ingested .*--accept-changed"):
        add(">a\nAC\n>b\nGUU\n")
    assert store.num_records == 1
    report = add(None, accept_changed=True)
    assert (report.source.seq_lo, report.source.seq_hi) == (1, 2)
    assert [row["id"] for row in rows(store, "records")] == ["a", "a", "b"]


def test_a_second_source_adds_only_what_is_new_and_never_moves_a_seq_id(store: Store, add: Ingest) -> None:
    add(">a\nACGU\n>b\nAC\n", "one.fa")
    before = rows(store, "sequences")
    report = add(">c\nA\n>d\nACGT\n>e\nGGG\n", "two.fa")
    assert rows(store, "sequences")[:2] == before
    assert [(row["seq_id"], row["sequence"]) for row in rows(store, "sequences")[2:]] == [(2, "A"), (3, "GGG")]
    assert (report.source.seq_lo, report.source.seq_hi) == (2, 4)
    assert {row["id"]: row["seq_id"] for row in rows(store, "records")} == {"a": 1, "b": 0, "c": 2, "d": 1, "e": 3}


def test_a_source_without_a_new_sequence(store: Store, add: Ingest) -> None:
    add(">a\nAC\n", "one.fa")
    report = add(">b\nac\n", "two.fa")
    assert (report.source.seq_lo, report.source.seq_hi, store.num_records) == (1, 1, 2)


def test_nothing_usable_is_an_error_and_leaves_nothing(store: Store, add: Ingest) -> None:
    with pytest.raises(InputError, match=r"in\.fa: none of its 2 records can be used; line 1, p: letter 'L'"):
        add(">p\nMKL\n>q\nEFL\n")
    with pytest.raises(InputError, match=r"in\.csv: holds no records"):
        add("id,sequence\n", "in.csv")
    assert (store.sources, rows(store, "rejects")) == ([], [])
    assert not any((store.root / ".tmp").iterdir())


def test_a_source_that_breaks_off_leaves_nothing(store: Store, add: Ingest) -> None:
    with pytest.raises(InputError, match="after record 1"):
        add("@a\nAC\n+\nII\n@b\nAC\n+\nI\n")
    assert (store.sources, rows(store, "records")) == ([], [])
    assert add("@a\nAC\n+\nII\n@b\nAC\n+\nII\n").source.records == 2


def test_leftovers_of_a_killed_run_do_not_count(store: Store, add: Ingest) -> None:
    """A run killed before store.json was written leaves part files of a source that the store does not know."""
    add(">a\nAC\n>x\nL\n", "one.fa")
    for kind in ("sequences", "records", "rejects"):
        part = on_disk(store.parts(kind)[0])
        for number in (0, 1):
            part.with_name(f"part-00001-0000{number}.parquet").write_bytes(part.read_bytes())
    assert (len(rows(store, "sequences")), len(rows(store, "records"))) == (1, 1)
    add(">b\nGGU\n", "two.fa")
    assert [row["sequence"] for row in rows(store, "sequences")] == ["AC", "GGU"]
    assert [row["id"] for row in rows(store, "records")] == ["a", "b"]
    assert len(rows(store, "rejects")) == 1


def test_a_missing_part_file_is_noticed_before_sequences_are_doubled(store: Store, add: Ingest) -> None:
    add(">a\nAC\n", "one.fa")
    store.parts("sequences")[0].unlink()
    with pytest.raises(RaypipeError, match="0 sequences where 1 were ingested, a file is missing"):
        add(">b\nAC\n", "two.fa")
    assert store.num_records == 1


def test_a_damaged_part_file_is_called_so(store: Store, add: Ingest) -> None:
    add(">a\nAC\n", "one.fa")
    part = on_disk(store.parts("sequences")[0])
    part.write_bytes(part.read_bytes()[:-8])
    with pytest.raises(RaypipeError, match="a file of the atlas is damaged, restore it from a copy"):
        add(">b\nAC\n", "two.fa")


def test_standard_input(store: Store) -> None:
    def pipe(data: bytes) -> IngestReport:
        with store.lock():
            return ingest(store, "-", stdin=io.BytesIO(data))

    assert pipe(b">a\nAC\n").source.records == 1
    assert pipe(b">a\nAC\n").unchanged
    # Standard input has no lasting name, so other content is no change.
    assert pipe(b">a\nAC\n>b\nGU\n").source.records == 2
    with pytest.raises(InputError, match="standard input: none of its 1 records"):
        pipe(b">a\nL\n")


def test_a_named_pipe_as_of_a_process_substitution(store: Store, tmp_path: Path) -> None:
    """<(zcat a.gz) can be opened and read once only, and its name says nothing about its content."""
    pipe = tmp_path / "fifo"
    os.mkfifo(pipe)
    for data, new in ((b">a\nAC\n", 1), (b">a\nAC\n>b\nGU\n", 1)):
        feeder = threading.Thread(target=pipe.write_bytes, args=(data,))
        feeder.start()
        with store.lock():
            report = ingest(store, str(pipe))
        feeder.join()
        assert report.source.seq_hi - report.source.seq_lo == new


def test_a_file_name_that_is_no_utf8(store: Store, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/r\xe9sultats.fa"
    Path(os.fsdecode(path)).write_text(">a\nAC\n>b\nL\n")
    with store.lock():
        report = ingest(store, os.fsdecode(path))
        assert ingest(store, os.fsdecode(path)).unchanged
    assert report.source.path.endswith("r\ufffdsultats.fa")
    assert rows(store, "records")[0]["source"] == report.source.path
    assert Store.open(store.root).sources[0].path == report.source.path


@pytest.mark.parametrize(("name", "words"), [("gone.fa", "no such file"), (".", "is a folder; name the files in it")])
def test_what_cannot_be_opened(store: Store, add: Ingest, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        add(None, name)


def test_progress_counts_records(store: Store, add: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.batches.BATCH_ROWS", 3)
    monkeypatch.setattr("raypipe.sources.read_blocks", partial(read_blocks, size=10))
    seen: list[int] = []
    add("".join(f">r{number}\n{'ACGU'[number % 4] * (number + 1)}\n" for number in range(10)), progress=seen.append)
    assert seen == [3, 6, 9, 10]
    assert [row["ordinal"] for row in rows(store, "records")] == list(range(10))


def test_many_parts(store: Store, add: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.ingest.PART_ROWS", 4)
    monkeypatch.setattr("raypipe.ingest.ROW_GROUP", 2)
    add("".join(f">r{number}\n{'A' * (20 - number)}\n" for number in range(10)))
    assert len(store.parts("sequences")) == 3
    assert [row["length"] for row in rows(store, "sequences")] == list(range(11, 21))
    assert [row["seq_id"] for row in rows(store, "sequences")] == list(range(10))
