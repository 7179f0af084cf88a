"""An atlas in SQL: `Atlas.sql`, `raypipe sql`, and DuckDB connections of one's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import raypipe
from index.annotations import annotate
from index.store import Store
from raypipe import AtlasError
from tests.integration.conftest import Cli
from tests.made import on_disk
from tests.served import served

S1 = "GGGCCCAAAUUU"
NEAREST = f"SELECT s.rank, s.id, family FROM search('{S1}', k := 3) s LEFT JOIN families USING (seq_id) ORDER BY rank"


@pytest.fixture(scope="module")
def atlas(finished: Path) -> raypipe.Atlas:
    return raypipe.connect(finished)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[object, ...]]:
    return connection.sql(sql).fetchall()


def test_sql_searches_as_search_does(atlas: raypipe.Atlas) -> None:
    hits = atlas.search(S1, k=3, columns=["rank", "id", "family"]).to_pylist()
    assert atlas.sql(NEAREST).to_pylist() == hits
    assert hits[0]["id"] == "s1"
    others = atlas.sql("FROM neighbors('s1', k := 2, filter := 'family = ''tRNA''')").to_pylist()
    expected = atlas.neighbors(["s1"], k=2, where="family = 'tRNA'", columns=["rank", "seq_id", "id", "score"])
    assert [{name: row[name] for name in ("rank", "seq_id", "id", "score")} for row in others] == expected.to_pylist()
    (vector,) = atlas.sql(f"SELECT embed('{S1}') AS v").to_pylist()
    assert vector["v"] == pytest.approx(atlas.embed(S1)[0].tolist())


def test_more_hits_than_there_are_sequences(atlas: raypipe.Atlas) -> None:
    """Who asks for a billion wants all; no memory is taken for the others."""
    all_of_them = atlas.search(S1, k=100).to_pylist()
    assert len(all_of_them) == atlas.info()["sequences"]
    assert atlas.search(S1, k=10**12).to_pylist() == all_of_them
    found = atlas.sql(f"FROM search('{S1}', k := {10**12}) ORDER BY rank").to_pylist()
    assert [row["id"] for row in found] == [row["id"] for row in all_of_them]
    others = atlas.sql(f"FROM neighbors('s1', k := {10**12})").to_pylist()
    (own,) = atlas.sql("SELECT seq_id FROM records WHERE id = 's1'").to_pylist()
    assert {row["seq_id"] for row in others} == {row["seq_id"] for row in found} - {own["seq_id"]}


def test_a_column_of_many_queries(atlas: raypipe.Atlas) -> None:
    """More than the encoder gets at a time between two looks at Ctrl-C."""
    sql = """SELECT q.n, s.id, s.rank FROM (SELECT n, 'ACGU' || repeat('G', n) AS seq FROM range(200) r(n)) q,
             LATERAL (FROM search(q.seq, k := 2)) s ORDER BY ALL"""
    found = [(row["n"], row["id"], row["rank"]) for row in atlas.sql(sql).to_pylist()]
    queries = {str(n): "ACGU" + "G" * n for n in range(200)}
    hits = atlas.search(queries, k=2, columns=["query", "id", "rank"]).to_pylist()
    assert found == sorted((int(row["query"]), row["id"], row["rank"]) for row in hits)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("FROM search('MKL')", r"^query_1 \('MKL'\): letter 'L' at position 3 is no nucleotide"),
        (f"FROM search('{S1}', filter := 'taxon = 1')", "^no column 'taxon'; there are: "),
        ("FROM neighbors('nobody')", "^no record with id nobody"),
        ("FROM searches('ACGU')", "searches"),
    ],
)
def test_mistakes_in_functions(atlas: raypipe.Atlas, cli: Cli, sql: str, words: str) -> None:
    with pytest.raises(raypipe.RaypipeError, match=words) as caught:
        atlas.sql(sql)
    ran = cli("sql", atlas.store.root, sql)
    assert ran.code != 0
    assert ran.err == f"raypipe: {' '.join(str(caught.value).split())}"


def test_the_verb(cli: Cli, finished: Path) -> None:
    ran = cli("sql", finished, NEAREST)
    assert ran.code == 0
    assert ran.out.splitlines()[:2] == ["rank\tid\tfamily", "1\ts1\tother"]


def test_plain_statements_load_no_engine(finished: Path, root: Path) -> None:
    code = (
        "import sys, duckdb, raypipe; connection = duckdb.connect(); raypipe.register(connection, sys.argv[1]); "
        "connection.execute('SET enable_progress_bar = false'); "
        "print(connection.sql('SELECT count(*) FROM records JOIN families USING (seq_id)').fetchall(), "
        "[name for name in ('torch', 'ray', 'faiss') if name in sys.modules]); "
        "connection.sql(\"SELECT id FROM search('ACGU', k := 1)\").fetchall(); print('faiss' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(finished)], cwd=root, capture_output=True, text=True, timeout=60
    )
    # And DuckDB's binding does not count aloud what the functions left behind.
    assert (ran.stdout, ran.stderr) == ("[(6,)] []\nTrue\n", "")


def test_ctrl_c_ends_a_statement_that_searches(finished: Path, root: Path) -> None:
    code = """
import sys, raypipe
from raypipe.atlas import Atlas
class Slow(Atlas):
    def embed(self, sequences):
        print("embeds", flush=True)
        import time; time.sleep(0.3)
        return super().embed(sequences)
try:
    Slow(sys.argv[1]).sql("FROM (SELECT repeat('A', i + 4) AS seq FROM range(900) r(i)) q, search(q.seq)")
except KeyboardInterrupt:
    print("stopped")
"""
    command = [sys.executable, "-c", code, str(finished)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        killer = threading.Timer(60, process.kill)
        killer.start()
        assert process.stdout.readline() == "embeds\n"
        os.kill(process.pid, signal.SIGINT)
        said = process.stdout.read().splitlines()
        killer.cancel()
    assert said[-1] == "stopped"
    assert said.count("embeds") <= 2  # of 15 pieces


def test_views_and_functions_in_a_connection_of_ones_own(
    connection: duckdb.DuckDBPyConnection, atlas: raypipe.Atlas
) -> None:
    connection.execute("CREATE TABLE mine AS SELECT 's1' AS id, 'a note' AS note")
    raypipe.register(connection, atlas)
    expected = [tuple(row.values()) for row in atlas.sql(NEAREST).to_pylist()]
    assert rows(connection, NEAREST) == expected
    assert rows(connection.cursor(), NEAREST) == expected
    noted = f"SELECT note, n_records FROM search('{S1}') JOIN mine USING (id)"
    assert rows(connection, noted) == [("a note", 2)]
    names = [name for (name,) in rows(connection, "SHOW TABLES")]
    assert names == ["embeddings", "families", "mine", "records", "rejects", "sequences"]
    with pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("DELETE FROM raypipe_memory_main.main.families")
    with pytest.raises(duckdb.InvalidInputException, match="letter 'L' at position 3") as caught:
        rows(connection, "FROM search('MKL')")
    assert "Traceback" not in str(caught.value)


def test_called_again_it_renews(connection: duckdb.DuckDBPyConnection, atlas: raypipe.Atlas, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(on_disk(atlas.store.root), tmp_path / "copy"))
    raypipe.register(connection, str(copy))
    assert rows(connection, "SELECT count(*) FROM families") == [(5,)]
    (tmp_path / "more.tsv").write_text("id\ttaxid\nt1\t9606\n")
    store = Store.open(copy)
    with store.lock():
        annotate(store, {"taxa": tmp_path / "more.tsv"})
    with pytest.raises(duckdb.CatalogException, match="taxa"):
        rows(connection, "FROM taxa")
    raypipe.register(connection, copy)
    assert rows(connection, "SELECT DISTINCT taxid FROM taxa JOIN search('GCGG', k := 10) USING (seq_id)") == [(9606,)]
    # Another atlas under the same names is another thing.
    with pytest.raises(AtlasError, match=r"has embed\(\), embeddings, families, .* of its own in memory\.main"):
        raypipe.register(connection, atlas)
    raypipe.register(connection, atlas, schema="other")
    assert rows(connection, "SELECT id FROM other.search('GGGCCCAAAUUU', k := 1)") == [("s1",)]
    assert rows(connection, "SELECT count(*) FROM other.families JOIN main.taxa USING (seq_id)") == [(2,)]


def test_atlases_in_several_databases_keep_their_own_annotations(
    connection: duckdb.DuckDBPyConnection, atlas: raypipe.Atlas, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(on_disk(atlas.store.root), tmp_path / "copy"))
    (tmp_path / "more.tsv").write_text("id\tfamily\nt1\tnovel\n")
    with (store := Store.open(copy)).lock():
        annotate(store, {"families": tmp_path / "more.tsv"})
    raypipe.register(connection, atlas)
    connection.execute("ATTACH ':memory:' AS second; USE second")
    raypipe.register(connection, copy)
    assert rows(connection, "SELECT DISTINCT family FROM second.main.families") == [("novel",)]
    assert rows(connection, "SELECT count(*) FROM memory.main.families") == [(5,)]


def test_names_that_are_taken(connection: duckdb.DuckDBPyConnection, finished: Path) -> None:
    connection.execute("CREATE TABLE records (a INTEGER); CREATE MACRO search(x) AS x")
    with pytest.raises(AtlasError, match=r"has records, search\(\) of its own in memory\.main; .*schema='atlas'"):
        raypipe.register(connection, finished)
    assert rows(connection, "SHOW TABLES") == [("records",)]
    raypipe.register(connection, finished, schema="rna")
    assert rows(connection, "SELECT id FROM rna.search('GGGCCCAAAUUU', k := 1)") == [("s1",)]
    assert rows(connection, "SELECT search(3)") == [(3,)]
    connection.execute("USE rna")
    assert rows(connection, "SELECT count(*) FROM records") == [(7,)]
    assert rows(connection, "SELECT len(embed('ACGU'))") == [(16,)]


def test_a_database_on_disk_keeps_the_views_and_gets_the_functions_again(finished: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with duckdb.connect(tmp_path / "mine.duckdb") as connection:
            raypipe.register(connection, finished)
            assert rows(connection, NEAREST)[0] == (1, "s1", "other")


def test_a_server_answers_the_functions(connection: duckdb.DuckDBPyConnection, atlas: raypipe.Atlas) -> None:
    connection.execute("CREATE TABLE queries AS SELECT unnest(['GGGCCCAAAUUU', NULL, 'ACGUACGU']) AS seq")
    with served(atlas=str(atlas.store.root)) as url, raypipe.connect(url) as remote:
        raypipe.register(connection, remote)
        sql = "SELECT seq, s.* FROM queries, LATERAL (FROM search(queries.seq, k := 2)) s ORDER BY seq, rank"
        found = rows(connection, sql)
        with duckdb.connect() as other:
            other.execute("CREATE TABLE queries AS SELECT unnest(['GGGCCCAAAUUU', NULL, 'ACGUACGU']) AS seq")
            raypipe.register(other, atlas)
            local = rows(other, sql)
        assert [row[:4] for row in found] == [row[:4] for row in local]
        assert [row[4] for row in found] == pytest.approx([row[4] for row in local], abs=1e-5)
        assert [row[5:] for row in found] == [row[5:] for row in local]
        assert rows(connection, "SELECT len(embed('ACGU'))") == [(16,)]
        assert len(rows(connection, "FROM neighbors('s1', k := 3)")) == 3
        assert rows(connection, "SHOW TABLES") == [("queries",)]
        with pytest.raises(duckdb.Error, match="no record with id nobody"):
            rows(connection, "FROM neighbors('nobody')")


def test_a_server_fences_conditions_too(atlas: raypipe.Atlas) -> None:
    """In a search, and in a search within SQL, whose own process waits for the answer."""
    root = on_disk(atlas.store.root)
    with served(root, sql_workers=1, sql_memory="150MB") as url, raypipe.connect(url) as remote:
        for condition in (
            f"length > (SELECT count(*) FROM read_text('{root / 'store.json'}'))",
            "length(repeat(sequence, 300000000)) > 5",
        ):
            with pytest.raises(AtlasError, match=r"refused|memory|too large|maximum") as caught:
                remote.search(S1, where=condition).to_arrow()
            assert caught.value.code in ("invalid", "too_large")
            sql = "FROM search($q, filter := $condition)"
            with pytest.raises(AtlasError, match=r"refused|memory|too large|maximum"):
                remote.sql(sql, {"q": S1, "condition": condition})
        hits = remote.sql("FROM search($q, k := 9, filter := $c)", {"q": S1, "c": "family = 'tRNA'"}).to_pylist()
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in remote.search(S1, k=9, where="family = 'tRNA'")]
