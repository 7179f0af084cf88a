"""Tables of labelled sequences: what is taken, what is left out, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.retrieval import NO_GROUP
from raypipe.cleaning import md5
from raypipe.errors import InputError
from raypipe.evaluation.labelled import read_labelled
from raypipe.evaluation.settings import RetrievalSettings
from raypipe.splits import part_of

HEADER = "id\tsequence\trfam_acc\tclan\tcluster80"
ROWS = [
    "a\tGGCUACGUAC\tRF1\tCL1\t1",
    "b\tggctacgtac\tRF1\tCL1\t9",  # the first again, in other letters
    "c\tGGCUACGUAU\tRF1\t\t2",
    "d\tGGCUACGUAA\tRF2\tCL1\t3",
    "e\tGGCUACGUAA\tRF3\t\t3",  # the same sequence in another family
    "f\tUUUUACGUAA\tRF3\t\t",
    "g\tUUUUACGUAC\t\t\t4",
]
DEFAULT = RetrievalSettings()


def write(folder: Path, rows: list[str], header: str = HEADER, name: str = "table.tsv") -> str:
    text = "\n".join([header, *rows]) + "\n"
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def test_distinct_sequences_with_their_labels(tmp_path: Path) -> None:
    made = read_labelled(write(tmp_path, ROWS), DEFAULT)
    assert sorted(made.ids) == ["a", "c", "d", "f"]
    digests = [md5(sequence.encode()) for sequence in made.sequences]
    assert digests == sorted(digests)
    by_id = {
        name: (made.sequences[row], made.family_names[made.family[row]], int(made.clan[row]), int(made.cluster[row]))
        for row, name in enumerate(made.ids)
    }
    assert by_id["a"][:2] == ("GGCUACGUAC", "RF1")
    assert by_id["d"][1] == "RF2"
    # The clan is the family's: one row of it may leave it out.
    assert by_id["a"][2] == by_id["c"][2] == by_id["d"][2] != NO_GROUP
    assert by_id["f"][2] == NO_GROUP
    assert len({values[3] for values in by_id.values()}) == 4
    assert made.counts == {
        "rows": 7,
        "rows_without_family": 1,
        "repeated_rows": 2,
        "sequences": 4,
        "sequences_of_several_families": 1,
        "sequences_without_cluster": 1,
        "families": 3,
        "clans": 1,
        "clusters": 4,
    }


def test_families_of_a_clan_are_in_one_part(tmp_path: Path) -> None:
    made = read_labelled(write(tmp_path, ROWS), DEFAULT)
    parts = {made.family_names[code]: part for code, part in zip(made.family, made.parts.tolist(), strict=True)}
    assert parts == {"RF1": part_of("CL1"), "RF2": part_of("CL1"), "RF3": part_of("RF3")}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv.gz", "t.parquet", "t.tsv"])
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    expected = read_labelled(write(tmp_path, ROWS, name="expected.tsv"), DEFAULT)
    rows = [row.split("\t") for row in ROWS]
    if name.endswith("parquet"):
        columns = dict(zip(HEADER.split("\t"), map(list, zip(*rows, strict=True)), strict=True))
        clusters = pa.array([int(value) if value else None for value in columns.pop("cluster80")], pa.int64())
        path = str(tmp_path / name)
        pq.write_table(pa.table({**columns, "cluster80": clusters}), path)
    else:
        mark = "," if ".csv" in name else "\t"
        path = write(tmp_path, [mark.join(row) for row in rows], HEADER.replace("\t", mark), name)
    made = read_labelled(path, DEFAULT)
    assert (made.ids, made.sequences, made.counts) == (expected.ids, expected.sequences, expected.counts)
    assert np.array_equal(made.family, expected.family)


def test_without_clusters_and_clans_each_sequence_is_alone(tmp_path: Path) -> None:
    path = write(tmp_path, ["a\tACGU\tx", "b\tACGA\tx"], "id\tseq\tkind")
    told = RetrievalSettings(family_column="kind", clan_column="none", cluster_column="none")
    made = read_labelled(path, told)
    assert made.clan.tolist() == [NO_GROUP, NO_GROUP]
    assert sorted(made.cluster.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (ROWS, HEADER.replace("rfam_acc", "family"), r"no column 'rfam_acc'; it has: id, .*--family-column"),
        (ROWS, HEADER.replace("clan", "clans"), r"no column 'clan'.*--clan-column, or say --clan-column none"),
        (ROWS, HEADER.replace("cluster80", "cl"), r"no column 'cluster80'.*--cluster-column none"),
        (ROWS, HEADER.replace("sequence", "letters"), r"no column 'sequence' or 'seq'.*--sequence-column"),
        (ROWS, HEADER.replace("clan", "rfam_acc"), r"2 columns are called 'rfam_acc'"),
        (["a\tACGU\t\t\t1"], HEADER, r"'rfam_acc' is empty in every row.*--family-column"),
        (["a\tACGU\tRF1\t\t1"], HEADER, r"'clan' is empty in every row.*--clan-column, or say --clan-column none"),
        ([], "\n\n", r"empty, there is no header"),
        (["a\tACGU\tRF1\tCL\t1", "b\tAXEF\tRF1\tCL\t2"], HEADER, r"row 2, b: letter 'E' .* looks like protein"),
        (["a\tACGU\tRF1\tCL1\t1", "b\tACG\tRF1\tCL2\t2"], HEADER, r"row 2, b: family RF1 has two clans, CL1 and CL2"),
        (["a\tACGU\tRF1\tCL1"], HEADER, r"damaged or no table"),
        ([], HEADER, r"has no rows"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, rows: list[str], header: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_labelled(write(tmp_path, rows, header), DEFAULT)


def test_no_table_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACGU\n")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    for name, said in [("x.fa", "is no table"), ("x.parquet", "damaged"), ("none.tsv", "no such file")]:
        with pytest.raises(InputError, match=said):
            read_labelled(str(tmp_path / name), DEFAULT)
