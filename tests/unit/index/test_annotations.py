"""Annotation files of every form, matched to records and published as versions."""

from __future__ import annotations

import gzip
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.annotation_tables import annotations_folder, list_tables, live_database
from index.annotations import annotate
from index.errors import StoreError
from index.sql import query
from index.store import Store
from tests.made import on_disk

RECORDS = [
    ("R1", "first", "ACGUACGU"),
    ("R2", "second", "GGGGCCCC"),
    ("R2b", "second again", "GGGGCCCC"),
    ("R3", "third", "UUUUAAAA"),
]
URS = [
    ("URS0000000001_9606", "human", "ACGUACGU"),
    ("URS0000000001_10090", "mouse", "ACGUACGU"),
    ("URS00000000FF", "plain", "GGGGCCCC"),
]
ID_MAPPING = (
    "URS0000000001\tENA\tGU786683.1:1..200:rRNA\t77133\trRNA\t\n"
    "URS0000000001\tENA\tGU786868.1:1..200:rRNA\t77133\trRNA\tGENE1\n"
    "URS0000009999\tENA\tX:1\t9606\ttRNA\t\n"
)
RFAM = """URS0000000001\tRF00177\t109.4\t3.3e-33\t2\t200\t29\t230\tBacterial small subunit "16S"\n"""


@pytest.fixture
def store(builder):
    return builder.store(RECORDS)


@pytest.fixture
def write(tmp_path):
    """Write text or bytes to a file; its name may be as awkward as the store's."""

    def write(content: str | bytes, name: str = "table's [x].tsv") -> Path:
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def add(store: Store, **tables):
    key = tables.pop("key", None)
    with store.lock():
        return annotate(store, tables, key=key)


def live_name(store: Store) -> str:
    file = live_database(store)
    assert file is not None
    return file.name


def rows(store: Store, table: str = "t", columns: str = "*") -> list[tuple]:
    return [tuple(row.values()) for row in query(store, f"SELECT {columns} FROM {table}").to_pylist()]


def test_report_and_table(store, write):
    [report] = add(store, t=write("id\tkind\tn\nR3\ttRNA\t7\nnone\tx\t1\nR1\trRNA\t8\nR1\tsnRNA\t9\n\n"))
    assert (report.rows, report.matched_rows, report.matched_sequences, report.unmatched_rows) == (4, 3, 2, 1)
    assert report.unmatched_examples == ["none"]
    assert (report.key, report.key_column, report.rule, report.columns) == ("id", None, "exact id", ["kind", "n"])
    assert rows(store) == [(0, "R1", "rRNA", 8), (0, "R1", "snRNA", 9), (2, "R3", "tRNA", 7)]
    assert (annotations_folder(store) / "CURRENT").read_text() == "000001\n"


def test_a_sequence_with_two_records_gets_the_rows_of_both(store, write):
    add(store, t=write("id\tkind\nR2b\tb\nR2\ta\n"))
    assert rows(store) == [(1, "R2b", "b"), (1, "R2", "a")], "file order within a sequence"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\tkind\tn\nR1\tx y\t1\nR3\t\t2\n"),
        ("a.tsv.gz", "id\tkind\tn\nR1\tx y\t1\nR3\t\t2\n"),
        ("a.txt", "id\tkind\tn\r\nR1\tx y\t1\r\nR3\t\t2\r\n"),
        ("a.csv", "id,kind,n\nR1,x y,1\nR3,,2"),
        ("a.csv.gz", 'id,kind,n\n"R1","x y","1"\nR3,"",2\n'),
        ("a.csv", "id;kind;n\nR1;x y;1\nR3;;2\n"),
        ("bom.csv", "\ufeffid,kind,n\nR1,x y,1\nR3,,2\n"),
        ("hash.tsv", "#id\tkind\tn\nR1\tx y\t1\nR3\t\t2\n"),
    ],
)
def test_text_formats(store, write, name, content):
    add(store, t=write(content, name))
    assert rows(store) == [(0, "R1", "x y", 1), (2, "R3", None, 2)]


def test_several_gzip_members(store, tmp_path):
    file = tmp_path / "a.tsv.gz"
    file.write_bytes(gzip.compress(b"id\tn\nR1\t1\n") + gzip.compress(b"R3\t2\n"))
    add(store, t=file)
    assert rows(store) == [(0, "R1", 1), (2, "R3", 2)]


def test_parquet_keeps_its_types(store, tmp_path):
    file = tmp_path / "a.parquet"
    table = pa.table({"name": ["R3", "R1", "no"], "tags": [["a"], [], None], "x": pa.array([1.5, 2, 3], pa.float32())})
    pq.write_table(table, file)
    [report] = add(store, t=file)
    assert report.key == "name"
    assert rows(store) == [(0, "R1", "R1", [], 2.0), (2, "R3", "R3", ["a"], 1.5)]


def test_quotes_in_tsv_are_characters_and_in_csv_quotes(store, write):
    add(store, t=write('id\tkind\nR1\t5" end, "x\n', "a.tsv"), c=write('id,kind\nR1,"a, ""b""\nc"\n', "a.csv"))
    assert rows(store, "t", "kind") == [('5" end, "x',)]
    assert rows(store, "c", "kind") == [('a, "b"\nc',)]


def test_types_are_inferred_from_all_rows(store, write):
    header = "id\twhole\tpadded\tnumber\ttruth\tmixed\tempty\tlong\n"
    body = "R1\t-5\t0000652\t1.5e-3\ttrue\t7\t\t12345678901234567890\nR3\t12\t12\t2\tFalse\tx\t\t1\n"
    add(store, t=write(header + body))
    types = {row["column_name"]: row["column_type"] for row in query(store, "DESCRIBE t").to_pylist()}
    assert types == {
        "seq_id": "BIGINT",
        "id": "VARCHAR",
        "whole": "BIGINT",
        "padded": "VARCHAR",
        "number": "DOUBLE",
        "truth": "BOOLEAN",
        "mixed": "VARCHAR",
        "empty": "VARCHAR",
        "long": "VARCHAR",
    }
    assert rows(store, "t", "padded, number") == [("0000652", 0.0015), ("12", 2.0)]


def test_headerless_files_of_rnacentral(builder, write):
    store = builder.store(URS)
    mapping, rfam = add(store, map=write(ID_MAPPING, "id_mapping.tsv"), rfam=write(RFAM, "rfam_annotations.tsv.gz"))
    assert (mapping.rows, mapping.matched_rows, mapping.matched_sequences) == (3, 2, 1)
    assert mapping.unmatched_examples == ["URS0000009999"]
    assert mapping.rule == rfam.rule == "URS without _taxid"
    assert mapping.columns == ["urs", "database", "external_id", "taxid", "rna_type", "gene"]
    assert mapping.key_column == "urs"
    assert rows(store, "map", "seq_id, id, urs, taxid, gene") == [
        (0, "URS0000000001_9606", "URS0000000001", 77133, None),
        (0, "URS0000000001_9606", "URS0000000001", 77133, "GENE1"),
    ]
    found = rows(
        store, "rfam", "rfam_acc, score, e_value, sequence_start, sequence_stop, model_start, model_stop, rfam_name"
    )
    assert found == [("RF00177", 109.4, 3.3e-33, 2, 200, 29, 230, 'Bacterial small subunit "16S"')]


def test_taxid_on_either_side(builder, write):
    store = builder.store(URS)
    content = "urs_taxid\tn\nURS0000000001_10090\t1\nURS0000000001\t2\nURS00000000FF_9606\t3\nURS0000000001_7\t4\n"
    [report] = add(store, t=write(content))
    assert report.rule == "exact id, else URS without _taxid"
    assert report.unmatched_examples == ["URS0000000001_7"], "two different species do not match"
    assert rows(store, "t", "seq_id, id, n") == [
        (0, "URS0000000001_10090", 1),
        (0, "URS0000000001_9606", 2),
        (1, "URS00000000FF", 3),
    ]


def test_a_key_called_id_is_kept_where_it_says_more_than_the_record(builder, write):
    store = builder.store(URS)
    [report] = add(store, t=write("id\tn\nURS00000000FF_9606\t3\n"))
    assert rows(store) == [(1, "URS00000000FF", "URS00000000FF_9606", 3)]
    assert report.key_column == "id_in_file"


def test_key_by_seq_id_by_name_and_by_values(store, write):
    numbers, named, guessed = add(
        store,
        numbers=write("seq_id\tn\n1\ta\n77\tb\n0.6\tc\n", "a.tsv"),
        named=write("name\tn\nR1\tR3\n", "b.tsv"),
        guessed=write("colour\tn\tlabel\nred\tR3\tR1\nblue\t-\tR3\n", "c.tsv"),
    )
    assert (numbers.rule, numbers.matched_rows, numbers.unmatched_rows) == ("seq_id", 1, 2)
    assert rows(store, "numbers") == [(1, "R2", "a")]
    assert named.key == "name"
    assert guessed.key == "label"
    [chosen] = add(store, chosen=write("colour\tn\tlabel\nred\tR3\tR1\n", "c.tsv"), key="N")
    assert chosen.key == "n"


def test_columns_called_like_ours(store, write):
    add(store, t=write("urs\tid\tseq_id\nR1\tx\t9\n"), key="urs")
    assert query(store, "SELECT * FROM t").to_pylist() == [
        {"seq_id": 0, "id": "R1", "urs": "R1", "id_in_file": "x", "seq_id_in_file": 9}
    ]


def test_tables_are_added_and_replaced_in_new_versions(store, write):
    add(store, a=write("id\tn\nR1\t1\n", "a.tsv"), b=write("id\tn\nR1\t2\n", "b.tsv"))
    first = live_database(store)
    reader = duckdb.connect(str(first), read_only=True)
    add(store, B=write("id\tn\nR1\t3\n", "b2.tsv"), c=write("id\tn\nR3\t4\n", "c.tsv"))
    add(store, d=write("id\tn\nR3\t5\n", "d.tsv"))
    assert [table.name for table in list_tables(store)] == ["B", "a", "c", "d"]
    assert rows(store, "a", "n") + rows(store, "b", "n") + rows(store, "c", "n") + rows(store, "d", "n") == [
        (1,),
        (3,),
        (4,),
        (5,),
    ]
    names = sorted(path.name for path in annotations_folder(store).iterdir())
    assert names == ["000002", "000002.duckdb", "000003", "000003.duckdb", "CURRENT"]
    assert reader.execute("SELECT n FROM b").fetchall() == [(2,)], "an open reader keeps its version"
    reader.close()
    assert not list((store.root / ".tmp").iterdir())


def test_same_content_again_changes_nothing(builder, store, write):
    content = "id\tn\nR1\t1\n"
    [first] = add(store, t=write(content, "a.tsv"))
    [again] = add(store, t=write(content, "b.tsv"))
    assert (first.unchanged, again.unchanged, again.rows) == (False, True, 1)
    assert live_name(store) == "000001.duckdb"
    builder.add_source(store, [("R9", "", "ACACACAC")], "more.fasta")
    [later] = add(store, t=write(content, "b.tsv"))
    assert not later.unchanged, "new records may match"
    assert live_name(store) == "000002.duckdb"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "a.tsv: is empty"),
        ("a.tsv", "\nR1\tx\n", "line 1 is empty"),
        ("a.tsv", "id\tn\n", "a.tsv: has a header but no rows"),
        ("a.tsv", "id\nR1\n", "line 1 has one column only"),
        ("a.tsv", "id\tn\nR1\t1\nR3\t1\t2\n", "a.tsv: line 3 has 3 columns instead of 2"),
        ("a.tsv", "id\tn\tm\nR1\t1\t1\nR3\t1\n", "a.tsv: line 3 has 2 columns instead of 3; check its tabs"),
        ("a.csv", "id,n\nR1,1\nR2,2,2\nR3,a,b\n", "a.csv: line 3 has 3 columns instead of 2; check its commas .2 of 3"),
        ("a.tsv", "id\tn\nR1\t1\nR3\tM\xfcller\n".encode("latin-1"), "a.tsv: line 3 is not UTF-8; if it is Latin-1"),
        ("a.tsv", "id\tM\xfcller\nR1\t1\n".encode("latin-1"), "a.tsv: line 1 is not UTF-8"),
        ("a.tsv", "id\tn\nR1\t1\n".encode("utf-16"), "UTF-16"),
        ("a.tsv", "id\tn\tN\nR1\t1\t2\n", "two columns are called 'n'"),
        ("a.tsv", "R1\tx\nR3\ty\n", "line 1 should name the columns, but 'R1' there is a record"),
        ("a.tsv", "id\tn\nX1\t1\nX2\t2\n", "no value of column 'id' is an id of this store: the file has X"),
        ("a.parquet", "id\tn\nR1\t1\n", "is not a Parquet file"),
        ("a.parquet", b"PAR1 and nothing else", "cannot be read as Parquet"),
    ],
)
def test_bad_files(store, write, name, content, message):
    with pytest.raises(StoreError, match=message):
        add(store, t=write(content, name))
    assert live_database(store) is None
    assert not list((store.root / ".tmp").iterdir())


def test_broken_gzip(store, tmp_path):
    whole = gzip.compress(b"id\tn\n" + b"".join(b"R1\t%d\n" % number for number in range(50_000)))
    (tmp_path / "cut.tsv.gz").write_bytes(whole[:-2000])
    (tmp_path / "head.tsv.gz").write_bytes(whole[:15])
    comments = gzip.compress(b"".join(b"# %d\n" % number for number in range(50_000)))
    (tmp_path / "comments.bed.gz").write_bytes(comments[:15_000])
    seed = gzip.compress(b"# STOCKHOLM 1.0\n" + b"".join(b"x/%d A\n" % number for number in range(50_000)))
    (tmp_path / "seed.gz").write_bytes(seed[:-2000])
    for name in ("cut.tsv.gz", "head.tsv.gz", "comments.bed.gz", "seed.gz"):
        with pytest.raises(StoreError, match=name):
            add(store, t=tmp_path / name)


def test_missing_file_and_column(store, write, tmp_path):
    with pytest.raises(StoreError, match=r"none\.tsv: cannot be read \(No such file"):
        add(store, t=tmp_path / "none.tsv")
    with pytest.raises(StoreError, match=r"no column 'urs'; it has: id, n"):
        add(store, t=write("id\tn\nR1\t1\n"), key="urs")


@pytest.mark.parametrize("name", ["two words", "1st", "", "a-b", "é", "select", "records", "Sequences", "x;drop"])
def test_bad_table_names(store, write, name):
    with pytest.raises(StoreError, match="table name"):
        add(store, **{name: write("id\tn\nR1\t1\n")})


def test_a_bad_second_file_publishes_nothing(store, write):
    with pytest.raises(StoreError, match="line 1"):
        add(store, good=write("id\tn\nR1\t1\n", "a.tsv"), bad=write("x\n", "b.tsv"))
    assert live_database(store) is None


def test_damaged_database(store, write):
    add(store, t=write("id\tn\nR1\t1\n"))
    file = on_disk(annotations_folder(store)) / live_name(store)
    whole = file.read_bytes()
    for damaged in (b"nonsense", whole[: len(whole) // 2], whole[:13_000]):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"000001\.duckdb: cannot be opened"):
            list_tables(store)
    file.unlink()
    with pytest.raises(StoreError, match=r"000001\.duckdb: missing"):
        list_tables(store)


def test_little_memory_is_enough(builder, tmp_path):
    store = builder.store(builder.random_records(2000))
    file = tmp_path / "big.tsv"
    with file.open("w") as stream:
        stream.write("id\ttext\n")
        stream.writelines(f"R{number % 2000:05d}\t{'x' * 200}{number}\n" for number in range(600_000))
    with store.lock():
        [report] = annotate(store, {"big": file}, memory_limit="120MB")
    assert report.matched_rows == 600_000
    assert query(store, "SELECT count(*) AS n FROM big").to_pylist() == [{"n": 600_000}]


def test_real_files(builder, shared):
    folder = shared / "data" / "rnacentral_formats"
    records = []
    for name in ("rnacentral_species_specific_mini.fasta", "rnacentral_active_mini.fasta", "rfam_mini.fasta"):
        for entry in (folder / name).read_text().split(">")[1:]:
            header, *lines = entry.strip().splitlines()
            records.append((header.split()[0], header, "".join(lines).upper().replace("T", "U")))
    records.append(("URS0000000001_77133", "", "ACGUACGUACGU"))
    store = builder.store(records)
    mapping, annotations, seeds = add(
        store,
        id_mapping=folder / "id_mapping.example.tsv",
        rfam=folder / "rfam_annotations.example.tsv",
        seeds=folder / "rfam_mini.tsv",
    )
    assert (mapping.rows, mapping.matched_rows, mapping.rule) == (3, 3, "URS without _taxid")
    assert (annotations.rows, annotations.matched_rows) == (1, 1)
    assert (seeds.unmatched_rows, seeds.rule) == (0, "exact id")
    assert query(store, "SELECT count(*) AS n FROM seeds WHERE rfam_acc = 'RF00001'").to_pylist()[0]["n"] > 0
