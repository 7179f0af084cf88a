"""Conditions over records and annotations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.annotations import annotate
from index.errors import StoreError
from index.filters import matching_sequences

LENGTHS = [4, 8, 12, 16, 20]


@pytest.fixture
def store(builder, tmp_path):
    records = [(f"R{place}", f"record {place}", "ACGU"[place % 4] * length) for place, length in enumerate(LENGTHS)]
    store = builder.store([*records, ("R1b", "twin of R1", records[1][2])])
    (tmp_path / "rna.tsv").write_text(
        "id\ttaxid\ttype\tlength\nR0\t9606\ttRNA\t40\nR1\t9606\trRNA\t80\nR1\t10090\ttRNA\t81\nR3\t7\tsnRNA\t160\n"
    )
    (tmp_path / "clans.csv").write_text("id,clan,type,rna_score\nR1b,CL1,x,1\nR4,CL2,y,2\n")
    with store.lock():
        annotate(store, {"rna": tmp_path / "rna.tsv", "Clans": tmp_path / "clans.csv"})
    return store


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("taxid = 9606", [0, 1]),
        ("taxid = 10090", [1]),
        ("TAXID in (7, 10090)", [1, 3]),
        ("taxid IS NULL", [2, 4]),
        ("rna.type = 'tRNA'", [0, 1]),
        ("rna.type = 'tRNA' AND taxid = 9606", [0]),
        ("clan = 'CL1'", [1]),
        ("clan = 'CL1' AND taxid = 10090", [1]),
        ("clan = 'CL2' OR taxid = 7", [3, 4]),
        ("sequences.length < 10", [0, 1]),
        ("length < 10", [0, 1]),  # as in a hit, although the annotations have a length too
        ("rna.length > 80 AND sequences.length < 10", [1]),
        ("rna_length > 80", [1, 3]),
        ("rna_score = 2", [4]),
        ("id = 'R1b'", [1]),
        ("id LIKE 'R1%' AND rna.id = 'R1'", [1]),
        ("seq_id >= 3", [3, 4]),
        ("description LIKE 'twin%'", [1]),
        ("source = 'input.fasta'", [0, 1, 2, 3, 4]),
        ("sequence LIKE 'C%'", [1]),
        ("taxid IN (SELECT max(taxid) FROM rna)", [1]),
        ('"taxid" = 7 -- a comment', [3]),
        ("len(list_filter([1, 8, 9], lambda x: x > taxid)) = 2", [3]),
        ("CASE WHEN taxid = 7 THEN true ELSE false END", [3]),
        ("false", []),
        ("1 = 1", [0, 1, 2, 3, 4]),
    ],
)
def test_conditions(store, where, expected):
    found = matching_sequences(store, where)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("taxon = 1", r"no column 'taxon'; there are: sequences: .*length.*; records: .*; .*rna: .*taxid"),
        ("type = 'tRNA'", r"'type' is ambiguous: write (rna.type or Clans.type|Clans.type or rna.type)"),
        ("rna.clan = 1", r"no column 'clan' in rna; it has: seq_id, id, taxid, type, length"),
        ('clan = "CL1"', r"no column 'CL1'.*single quotes"),
        ("taxid = 'human'", r"Could not convert string 'human'"),
        ("taxid =", r"not an SQL condition"),
        ("", r"where is empty"),
        ("taxid = 1; DROP VIEW rna", r"not an SQL condition"),
        ("1=1) FROM rna WHERE (1=1", r"one condition only"),
        ("1=1), (2=2", r"one condition only"),
        ("1=1) UNION SELECT (1=1", r"one condition only"),
        ("taxid IN (SELECT x FROM read_csv('/etc/passwd'))", r"disabled by configuration"),
        ("nope(taxid)", r"nope does not exist"),
        ("count(*) > 1", r"aggregates"),
    ],
)
def test_bad_conditions(store, where, message):
    with pytest.raises(StoreError, match=message):
        matching_sequences(store, where)


def test_store_without_annotations_or_records(builder):
    plain = builder.store([("A", "", "ACGU")])
    assert matching_sequences(plain, "length = 4").tolist() == [0]
    assert matching_sequences(builder.store(None, "none"), "length = 4").tolist() == []
    assert matching_sequences(builder.store([], "empty"), "length = 4").tolist() == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(low=st.integers(0, 25), high=st.integers(0, 25), taxid=st.sampled_from([7, 9606, 10090, 1]))
def test_against_python(store, low, high, taxid):
    annotated = {0: {9606}, 1: {9606, 10090}, 3: {7}}
    where = f"sequences.length BETWEEN {low} AND {high} AND NOT coalesce(taxid = {taxid}, false)"
    expected = [
        seq_id
        for seq_id, length in enumerate(LENGTHS)
        if low <= length <= high and annotated.get(seq_id, {0}) - {taxid}
    ]
    assert matching_sequences(store, where).tolist() == expected
