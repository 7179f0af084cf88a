"""SQL over a store, and attacks on its fence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import StoreError
from index.sql import connect, query


@pytest.fixture
def store(builder, vectors, tmp_path):
    store = builder.embedded(vectors[:20])
    (tmp_path / "t.tsv").write_text("id\ttaxid\nR00001\t9606\nR00002\t7\n")
    with store.lock():
        annotate(store, {"rna": tmp_path / "t.tsv"})
    return store


def test_views(store, vectors):
    counted = "SELECT (SELECT count(*) FROM {}) AS n"
    assert [query(store, counted.format(name))["n"][0].as_py() for name in ("sequences", "records", "rejects")] == [
        20,
        20,
        0,
    ]
    found = query(store, "SELECT embedding FROM embeddings ORDER BY seq_id").to_pydict()["embedding"]
    np.testing.assert_array_equal(np.array(found, np.float32), vectors[:20])
    joined = (
        "SELECT r.id, taxid, length FROM rna JOIN sequences USING (seq_id) JOIN records r USING (seq_id) ORDER BY taxid"
    )
    assert [row["id"] for row in query(store, joined).to_pylist()] == ["R00002", "R00001"]
    assert query(store, "SHOW TABLES")["name"].to_pylist() == ["embeddings", "records", "rejects", "rna", "sequences"]
    assert query(store, "DESCRIBE rna")["column_name"].to_pylist() == ["seq_id", "id", "taxid"]
    assert "PARQUET" in query(store, "EXPLAIN SELECT * FROM sequences")["explain_value"][0].as_py()
    assert query(store, "explain analyze select count(*) from records").num_rows == 1


def test_parameters(store):
    assert query(store, "SELECT id FROM rna WHERE taxid = ?", [7])["id"].to_pylist() == ["R00002"]
    assert query(store, "SELECT id FROM rna WHERE taxid = $t", {"t": 7})["id"].to_pylist() == ["R00002"]


def test_embeddings_are_those_that_are_indexed(builder, store, vectors):
    other = builder.embedding("other", fingerprint="a" * 64)
    store.put_embedding(other)
    builder.write_part(store, other, 0, [0], vectors[19:20])
    count = "SELECT count(*) AS n FROM embeddings"
    assert query(store, count).to_pylist() == [{"n": 20}]
    with store.lock():
        build_index(store, "other")
    assert query(store, count).to_pylist() == [{"n": 1}]


def test_vectors_of_another_model_do_not_count(builder, store, vectors):
    builder.write_part(store, builder.embedding(fingerprint="e" * 64), 9, [3], vectors[:1])
    assert query(store, "SELECT count(*) AS n FROM embeddings").to_pylist() == [{"n": 20}]


def test_empty_stores(builder):
    for records, name in ((None, "none"), ([], "empty")):
        store = builder.store(records, name)
        for table in ("sequences", "records", "rejects", "embeddings"):
            assert query(store, f"FROM {table}").num_rows == 0
    assert query(store, "FROM sequences").column_names == ["seq_id", "md5", "length", "sequence"]


def attacks(store: Path, outside: Path) -> list[str]:
    inside = str(store).replace("'", "''")
    return [
        f"COPY (SELECT 1) TO '{outside}/x.csv'",
        f"COPY (SELECT 1) TO '{inside}/x.csv'",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}/x.csv'",
        f"EXPLAIN/**/ANALYZE/**/COPY (SELECT 1) TO '{inside}/x.csv'",
        f"EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{inside}/x.csv'",
        f"SELECT * FROM query('COPY (SELECT 1) TO ''{outside}/x.csv''')",
        f"EXPORT DATABASE '{inside}/dump'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM glob('/etc/*')",
        f"SELECT * FROM read_parquet('{outside}/secret.parquet')",
        f"SELECT * FROM '{outside}/secret.parquet'",
        f"SELECT * FROM read_parquet('{inside}/../secret.parquet')",
        f"SELECT * FROM parquet_schema('{outside}/secret.parquet')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        f"ATTACH '{outside}/new.duckdb'",
        "ATTACH ':memory:' AS m",
        "DETACH annotation_tables",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "SET VARIABLE x = 1",
        "USE annotation_tables",
        "CALL enable_logging(storage = 'file')",
        f"SELECT * FROM enable_logging(storage = 'file', storage_path = '{outside}/log')",
        "DROP VIEW sequences",
        "DROP TABLE annotation_tables.main.rna",
        "CREATE TABLE x (a INTEGER)",
        "CREATE OR REPLACE VIEW sequences AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "INSERT INTO annotation_tables.main.rna VALUES (1, 'a', 2)",
        "UPDATE annotation_tables.main.rna SET taxid = 0",
        "DELETE FROM annotation_tables.main.rna",
        "WITH x AS (DELETE FROM annotation_tables.main.rna RETURNING *) SELECT * FROM x",
        "TRUNCATE annotation_tables.main.rna",
        "ALTER TABLE annotation_tables.main.rna ADD COLUMN b INTEGER",
        "BEGIN",
        "CHECKPOINT",
        "VACUUM",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "SELECT 1; DROP VIEW sequences",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
    ]


@pytest.mark.parametrize("number", range(len(attacks(Path(), Path()))))
def test_the_fence(store, tmp_path, number):
    outside = tmp_path / "outside"
    outside.mkdir()
    pq.write_table(query(store, "SELECT 42 AS secret"), outside / "secret.parquet")
    pq.write_table(query(store, "SELECT 42 AS secret"), store.root.parent / "secret.parquet")

    def standing():
        return sorted(str(path) for folder in (store.root, outside) for path in folder.rglob("*"))

    before = standing()
    with pytest.raises(StoreError):
        query(store, attacks(store.root, outside)[number])
    assert standing() == before
    assert query(store, "SELECT count(*) AS n FROM rna").to_pylist() == [{"n": 2}]


def test_python_variables_stay_out_of_reach(store):
    table = pq.read_table(store.parts("records")[0])
    assert table.num_rows == 20
    with pytest.raises(StoreError, match="Table with name table"):
        query(store, 'SELECT * FROM "table"')
    with connect(store) as connection, pytest.raises(Exception, match="does not exist"):
        connection.execute('SELECT * FROM "table"')


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM rnas", r"Table with name rnas does not exist; there are: sequences, records, .*rna"),
        ("SELECT taxon FROM rna", r'"taxon" not found in FROM clause'),
        ("SELEC 1", r"syntax error"),
        ("SELECT 1; SELECT 2", r"2 SQL statements: give one SELECT"),
        ("DROP VIEW rna", r"DROP is refused, the store is read-only"),
        ("SELECT * FROM read_csv('/etc/passwd')", r"only the store's own tables can be read"),
        ("SELECT id FROM rna WHERE taxid = ?", r"[Pp]arameter"),
        ("SELECT taxid::DATE FROM rna", r"cast"),
    ],
)
def test_messages(store, sql, message):
    with pytest.raises(StoreError, match=message) as error:
        query(store, sql)
    assert "\n" not in str(error.value)


def test_large_sorts_spill_to_the_temporary_folder_only(store, tmp_path):
    before = set(os.listdir())
    with connect(store, memory_limit="40MB", threads=1) as connection:
        rows = connection.execute(
            "SELECT count(DISTINCT t) FROM (SELECT repeat('x', 50) || range AS t FROM range(1000000))"
        ).fetchall()
    assert rows == [(1_000_000,)]
    assert set(os.listdir()) == before
