"""Attacks on the SQL that a server answers to strangers."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import QuestionError, StoreError
from index.fence_limits import bytes_of, without_paths
from index.fenced import FencedSql, FenceError, Limits
from index.sql import query
from tests.dinucleotides import DinucleotideAsker, counts

NUMBER = 300
LIMITS = Limits(seconds=1.0, rows=1000, bytes=1 << 20, memory="150MB", spill="50MB", threads=1, processes=2, piece=100)
LARGE = "repeat(sequence, 1000000)"
TWICE = "WITH RECURSIVE r AS (SELECT 'a' AS x UNION ALL SELECT x || x FROM r)"


@pytest.fixture(scope="module")
def store(module_builder):
    records = module_builder.random_records(NUMBER)
    store = module_builder.embedded(np.array([counts(sequence) for _, _, sequence in records]))
    made = module_builder.prediction(labels=("tRNA", "rRNA", "snRNA"))
    store.put_prediction(made)
    rows = [
        {"seq_id": number, "label": "tRNA", "probability": 0.5, "probabilities": [0.5, 0.3, 0.2]}
        for number in range(NUMBER)
    ]
    module_builder.write_predictions(store, made, 0, rows)
    with store.lock():
        build_index(store, kind="flat", transform="none")
    table = module_builder.root / "t.tsv"
    table.write_text("id\ttaxid\n" + "".join(f"R{n:05d}\t{9606 if n % 3 else 7}\n" for n in range(NUMBER)))
    with store.lock():
        annotate(store, {"rna": table})
    return store


@pytest.fixture(scope="module")
def fenced(store):
    with FencedSql(store.root, LIMITS) as opened:
        yield opened


@pytest.fixture(scope="module")
def asker(store):
    return DinucleotideAsker(store)


HONEST = [
    "FROM sequences",
    "SELECT 1 AS one",
    "VALUES (1), (2)",
    "DESCRIBE rna",
    "SHOW TABLES",
    "SUMMARIZE sequences",
    "WITH t AS (SELECT seq_id FROM rna WHERE taxid = 7) SELECT count(*) FROM t JOIN sequences USING (seq_id)",
    "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 5) SELECT max(x) FROM r",
    "WITH tables AS (FROM rna LIMIT 2) SELECT (WITH Twice AS (SELECT 2) FROM twice), t.* FROM tables t",
    "SELECT taxid, count(*), avg(s.length) FROM rna JOIN sequences s USING (seq_id) GROUP BY ALL ORDER BY 2 DESC",
    "SELECT seq_id, rank() OVER (PARTITION BY length ORDER BY seq_id) r FROM sequences QUALIFY r = 1",
    "PIVOT rna ON taxid IN (7, 9606) USING count(*)",
    "SELECT label, probabilities[1] FROM rna_type LIMIT 3",
    "SELECT seq_id, list_sum(list_transform(embedding, lambda x: x * x)) FROM embeddings LIMIT 3",
    "SELECT COLUMNS('s.*') FROM memory.main.sequences",
    "SELECT x, unnest(range(3)) FROM generate_series(1, 3) g(x)",
    "SELECT regexp_extract_all(sequence, 'G+'), reverse(sequence), length::VARCHAR || ' nt' FROM sequences LIMIT 3",
    "SELECT * FROM sequences WHERE seq_id IN (SELECT seq_id FROM rna) AND EXISTS (FROM records) LIMIT 2",
    "SELECT current_date, pg_typeof(1), {'a': 1}.a, MAP {'b': 2}['b']",
    "SELECT rank, s.id, taxid FROM search('ACGUACGUGG', k := 3, filter := 'taxid = 7') s JOIN rna USING (seq_id)",
    "SELECT q.id, s.id FROM records q, LATERAL (FROM neighbors(q.id, k := 1)) s",
    "SELECT avg(list_sum(embed(sequence))) FROM sequences",
]


@pytest.mark.parametrize("sql", HONEST)
def test_honest_questions_are_answered_as_ever(store, fenced, asker, sql):
    result = fenced.query(sql, None, asker)
    assert result.table.num_rows > 0
    assert not result.truncated
    assert sorted(map(str, result.table.to_pylist())) == sorted(map(str, query(store, sql, None, asker).to_pylist()))


REFUSED = [
    # Files, by every name.
    "FROM '/etc/passwd'",
    'FROM "{inside}/records/part-00000-00000.parquet"',
    "FROM read_parquet('{inside}/records/*.parquet')",
    "FROM read_csv('/etc/passwd')",
    "SELECT content FROM read_text('{inside}/store.json')",
    "FROM read_blob('{inside}/store.json')",
    "FROM read_json('{inside}/store.json')",
    "FROM glob('{inside}/*')",
    "FROM parquet_metadata('{inside}/records/part-00000-00000.parquet')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM read_duckdb('{inside}/annotations/000001.duckdb')",
    "DESCRIBE '{inside}/x.parquet'",
    "SUMMARIZE FROM read_text('{inside}/store.json')",
    "WITH t AS (FROM read_text('{inside}/store.json')) FROM t",
    "SELECT (SELECT content FROM read_text('{inside}/store.json'))",
    "FROM sequences, LATERAL (FROM read_text('{inside}/store.json'))",
    "FROM sequences UNION ALL FROM read_text('{inside}/store.json')",
    "FROM sequences WHERE length IN (SELECT size FROM read_text('{inside}/store.json'))",
    "PIVOT (FROM read_text('{inside}/store.json')) ON size IN (1) USING count(*)",
    "UNPIVOT '{inside}/x.csv' ON a",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('*')))",
    "WITH \"{inside}/x.parquet\" AS (SELECT 1) SELECT * FROM (FROM '{inside}/x.parquet')",
    "FROM query('FROM read_text(''{inside}/store.json'')')",
    "FROM query_table('{inside}/x.parquet')",
    "FROM histogram('{inside}/x.parquet', a)",
    "SELECT json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    # The server, its memory and its settings.
    "SELECT getenv('HOME')",
    "SELECT current_setting('temp_directory')",
    "SELECT system.main.current_setting('temp_directory')",
    "SELECT getvariable('x')",
    "FROM duckdb_settings()",
    "FROM duckdb_databases()",
    "FROM duckdb_views()",
    "FROM duckdb_secrets()",
    "FROM pragma_database_size()",
    "FROM pragma_version()",
    "FROM sqlite_master",
    "FROM information_schema.tables",
    # By names that WITH gives to something else, elsewhere or with a schema.
    "WITH duckdb_databases AS (SELECT 1) FROM main.duckdb_databases",
    "WITH duckdb_databases AS (FROM duckdb_databases) FROM duckdb_databases",
    "SELECT (WITH DuckDB_Views AS (SELECT 1) FROM DuckDB_Views), sql FROM duckdb_views",
    "SELECT (WITH pg_tables AS (SELECT 1) FROM pg_tables), p.* FROM pg_tables p",
    'WITH "duc\u212adb_views" AS (SELECT 1) SELECT sql FROM duckdb_views',
    "WITH sqlite_master AS (SELECT 1) SELECT sql FROM main.sqlite_master",
    "WITH pragma_database_list AS (SELECT 1) FROM main.pragma_database_list",
    "WITH x AS (SELECT 1) FROM memory.main.x",
    "SELECT (WITH tables AS (SELECT 1) FROM tables), table_name FROM tables",
    "FROM pg_catalog.pg_views",
    "FROM annotation_tables.raypipe.tables",
    "SHOW DATABASES",
    "FROM arrow_scan(1, 2, 3)",
    "FROM seq_scan('rna')",
    "SELECT finalize('x'::BLOB)",
    "SELECT raypipe_search_1('ACGU', 3, NULL)",
    "SELECT pg_sleep(10)",
    "EXPLAIN FROM sequences",
    "EXPLAIN ANALYZE FROM sequences",
    # Anything but reading.
    "ATTACH '{inside}/annotations/000001.duckdb' AS mine",
    "ATTACH ':memory:' AS m",
    "DETACH annotation_tables",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "RESET max_execution_time",
    "SET VARIABLE x = 1",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "USE annotation_tables",
    "COPY sequences TO '{inside}/out.csv'",
    "COPY (SELECT 1) TO '{inside}/out.parquet'",
    "EXPORT DATABASE '{inside}/out'",
    "CREATE TABLE x (a INTEGER)",
    "CREATE MACRO search(q) AS TABLE SELECT 1",
    "DROP VIEW sequences",
    "INSERT INTO rna VALUES (1)",
    "WITH t AS (DELETE FROM annotation_tables.main.rna RETURNING *) FROM t",
    "WITH t AS (INSERT INTO rna VALUES (1) RETURNING *) FROM t",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "PREPARE p AS SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW sequences",
    "",
    "-- nothing",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_refused(store, fenced, asker, sql):
    root = os.fspath(store.root)

    def standing():
        return sorted(str(path) for path in Path(root).rglob("*"))

    before = standing()
    with pytest.raises(QuestionError) as caught:
        fenced.query(sql.replace("{inside}", root.replace("'", "''")), None, asker)
    assert caught.value.code == "invalid"
    # What was asked may be repeated; nothing of the server is told.
    assert tempdir_of(fenced) not in str(caught.value)
    assert "000001.duckdb (" not in str(caught.value)
    assert standing() == before


def tempdir_of(fenced):
    return fenced._idle[0]._spill if fenced._idle else "no process is left"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat('x', 3000000000))",
        f"SELECT max(length({LARGE})) FROM sequences",
        "SELECT len(range(500000000))",
        f"{TWICE} SELECT max(length(x)) FROM r",
        "SELECT list(a.sequence || b.sequence || c.sequence) FROM sequences a, sequences b, sequences c",
        "SELECT format('{:>2000000000}', 'a')",
    ],
)
def test_memory_has_a_limit(fenced, sql):
    begin = time.monotonic()
    with pytest.raises(FenceError, match=r"^the statement needs more memory than 150MB; ") as caught:
        fenced.query(sql)
    assert caught.value.code == "too_large"
    assert time.monotonic() - begin < 5
    assert fenced.query("SELECT 1 AS one").table.to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM sequences a, sequences b, sequences c, sequences d WHERE a.length + b.length > d.length",
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r",
        "SELECT sum(x % 7) FROM generate_series(1, 1000000000000) g(x)",
        # In one call of a function, which DuckDB does not stop: the process ends, and another one takes its place.
        "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))",
    ],
)
def test_time_has_a_limit(fenced, sql):
    begin = time.monotonic()
    with pytest.raises(FenceError, match=r"^the statement took longer than 1 s; ") as caught:
        fenced.query(sql)
    assert caught.value.code == "timeout"
    assert 0.5 < time.monotonic() - begin < 5
    assert fenced.query("SELECT 1 AS one").table.to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
        "SELECT " + "[" * 20_000 + "]" * 20_000,
        "FROM " + "(FROM " * 5_000 + "sequences" + ")" * 5_000,
        "SELECT " + "NOT " * 10_000 + "true",
        "SELECT " + "1+" * 40_000 + "1",
        "x" * 200_000,
    ],
)
def test_statements_that_are_nested_or_long(fenced, sql):
    with pytest.raises(QuestionError):
        fenced.query(sql)
    assert fenced.query("SELECT 1 AS one").table.num_rows == 1


def test_answers_have_limits_and_say_so(fenced):
    many = fenced.query("SELECT x FROM range(100000) r(x)")
    assert (many.table.num_rows, many.truncated) == (1000, True)
    assert many.table["x"].to_pylist() == list(range(1000))
    fitting = fenced.query("SELECT x FROM range(1000) r(x)")
    assert (fitting.table.num_rows, fitting.truncated) == (1000, False)
    wide = fenced.query("SELECT repeat('x', 10000) AS x FROM range(900)")
    assert wide.truncated
    assert 50 < wide.table.num_rows < 120
    assert wide.table.nbytes <= 1 << 20
    nothing = fenced.query("SELECT x FROM range(5) r(x) WHERE x > 9")
    assert (nothing.table.num_rows, nothing.truncated, nothing.table.column_names) == (0, False, ["x"])


def test_parameters(fenced):
    rows = fenced.query("SELECT id FROM records WHERE seq_id = $n AND id LIKE $like", {"n": 3, "like": "R%"})
    assert rows.table.to_pylist() == [{"id": "R00003"}]
    assert fenced.query("SELECT ? AS a, ? AS b", [None, [1, 2]]).table.to_pylist() == [{"a": None, "b": [1, 2]}]
    with pytest.raises(QuestionError, match="parameters are numbers, texts"):
        fenced.query("SELECT ?", [object()])


def test_what_an_asker_raises_is_raised_here(store, fenced, asker):
    with pytest.raises(QuestionError, match=r"^'PROTEIN' is no RNA$"):
        fenced.query("FROM search('PROTEIN')", None, asker)
    with pytest.raises(QuestionError, match=r"^search\(\) is not answered here$"):
        fenced.query("FROM search('ACGU')")

    # Words of an error that was told are only words when it is over.
    for words in ("QuestionError", "UDF: AskerError: QuestionError", "'PROTEIN' is no RNA"):
        with pytest.raises(QuestionError, match=rf"^Invalid Input Error: {words}$") as caught:
            fenced.query("SELECT error(?)", [words], asker)
        assert caught.value.code == "invalid"

    class Broken(DinucleotideAsker):
        def search(self, sequences, k, where):
            raise StoreError(f"{self.store.root}/index/CURRENT: damaged")

    with pytest.raises(QuestionError, match=r"^ATLAS/index/CURRENT: damaged$") as caught:
        fenced.query("FROM search('ACGU')", None, Broken(store))
    assert caught.value.code == StoreError.code
    assert fenced.query("SELECT 1 AS one").table.num_rows == 1


def test_queries_are_asked_in_pieces_until_the_time_is_over(store, fenced):
    class Slow(DinucleotideAsker):
        def search(self, sequences, k, where):
            time.sleep(0.7)
            return super().search(sequences, k, where)

    asker = Slow(store)
    with pytest.raises(FenceError, match="took longer than 1 s"):
        fenced.query("FROM sequences q, LATERAL (FROM search(q.sequence, k := 1))", None, asker)
    assert [asked[:2] for asked in asker.asked] == [("search", 100), ("search", 100)]


def test_conditions_of_strangers(store, fenced):
    assert fenced.matching_sequences("taxid = 7 AND length > 20").tolist() == (
        query(store, "SELECT seq_id FROM rna JOIN sequences s USING (seq_id) WHERE taxid = 7 AND s.length > 20")[
            "seq_id"
        ].to_pylist()
    )
    for where in ("length > (SELECT count(*) FROM read_text('/etc/passwd'))", "1) FROM read_csv('x') --", "taxon = 1"):
        with pytest.raises(QuestionError):
            fenced.matching_sequences(where)
    with pytest.raises(FenceError) as caught:
        fenced.matching_sequences(f"length({LARGE}) > 5")
    assert caught.value.code == "too_large"


def test_statements_share_the_processes_and_the_last_ones_are_told(store):
    with FencedSql(store.root, Limits(seconds=2.0, processes=1, threads=1)) as fenced:
        assert fenced.query("SELECT 0 AS n").table.num_rows == 1
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(fenced.query, [f"SELECT {number} AS n" for number in range(20)])
        assert [result.table["n"][0].as_py() for result in found] == list(range(20))
        assert len(fenced._idle) == 1
        endless = "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(fenced.query, endless)
            time.sleep(0.2)
            with pytest.raises(FenceError, match="too many SQL statements") as caught:
                fenced.query("SELECT 1")
            assert caught.value.code == "busy"
            assert isinstance(running.exception(), FenceError)
    with pytest.raises(FenceError, match="the server stops"):
        fenced.query("SELECT 1")


def test_new_versions_are_taken_up_while_old_readers_finish(builder, tmp_path):
    store = builder.store(builder.random_records(20))

    def publish(value):
        (tmp_path / "t.tsv").write_text(f"id\tvalue\nR00001\t{value}\n")
        with store.lock():
            annotate(store, {"rna": tmp_path / "t.tsv"})

    publish(1)
    asking, published = threading.Event(), threading.Event()

    class Waiting(DinucleotideAsker):
        def __init__(self):
            self.asked = []

        def embed(self, sequences):
            asking.set()
            assert published.wait(10)
            return np.zeros((len(sequences), 2), np.float32)

    with FencedSql(store.root, Limits(seconds=20, processes=2, threads=1)) as fenced, ThreadPoolExecutor(1) as pool:
        old = pool.submit(fenced.query, "SELECT value, len(embed('ACGU')) AS d FROM rna", None, Waiting())
        assert asking.wait(20)
        publish(2)
        assert fenced.query("SELECT value FROM rna").table.to_pylist() == [{"value": 2}]
        published.set()
        assert old.result(20).table.to_pylist() == [{"value": 1, "d": 2}]
        for _ in range(3):
            assert fenced.query("SELECT value FROM rna").table.to_pylist() == [{"value": 2}]


def test_a_store_that_breaks_is_told_without_its_place(builder):
    store = builder.store(builder.random_records(20))
    with FencedSql(store.root, Limits(processes=1, threads=1)) as fenced:
        part = store.parts("sequences")[0]
        part.write_bytes(part.read_bytes()[:-100])
        with pytest.raises(StoreError, match=r"^ATLAS/sequences/part-00000-00000\.parquet: is damaged") as caught:
            fenced.query("FROM sequences")
        assert os.fspath(store.root) not in str(caught.value)
        assert caught.value.code == "unavailable"


def test_processes_end_and_leave_nothing(store):
    fenced = FencedSql(store.root, Limits(processes=1, threads=1))
    fenced.start()
    worker = fenced._idle[0]
    assert Path(worker._spill).is_dir()
    fenced.close()
    assert worker._process.returncode is not None
    assert not Path(worker._spill).exists()


def test_a_process_that_is_killed_while_it_waits_is_replaced(store):
    with FencedSql(store.root, Limits(processes=1, threads=1)) as fenced:
        fenced.start()
        worker = fenced._idle[0]
        worker._process.kill()
        worker._process.wait()
        assert fenced.query("SELECT 1 AS one").table.num_rows == 1
        assert not Path(worker._spill).exists()


def test_no_store(tmp_path):
    with FencedSql(tmp_path, Limits(processes=1, threads=1)) as fenced:
        for _ in range(2):
            with pytest.raises(QuestionError, match=r"^ATLAS: not an atlas") as caught:
                fenced.query("SELECT 1")
            assert caught.value.code == "unavailable"


def test_sizes_and_paths():
    assert [bytes_of(size) for size in ("1GB", "500MB", "2GiB", "1.5 kb", "7B")] == [
        10**9,
        500 * 10**6,
        2 << 30,
        1500,
        7,
    ]
    with pytest.raises(QuestionError, match="'much' is no size"):
        FencedSql(".", Limits(memory="much"))
    assert without_paths("/data/a/x/y.parquet: bad, see /tmp/raypipe/z.tmp; 1/2 s", "/data/a") == (
        "ATLAS/x/y.parquet: bad, see .../z.tmp; 1/2 s"
    )
    assert without_paths("atlas: no index, as atlas/index is empty; the atlas is new", "atlas") == (
        "ATLAS: no index, as ATLAS/index is empty; the atlas is new"
    )
    assert without_paths("file:///data/a/x, /data/ab/x, /old/data/a/x.y", "/data/a") == "file://ATLAS/x, .../x, .../x.y"
    remote = "s3://bucket/mine: atlas://bucket/mine/records/part-0.parquet: gone; atlas://bucket/x"
    assert without_paths(remote, "s3://bucket/mine") == "ATLAS: .../part-0.parquet: gone; .../x"
    assert without_paths("no such table. ./store.json is there", ".") == "no such table. ATLAS/store.json is there"


def test_files_of_the_store_are_where_the_tests_think(store):
    """Else attacks that name them would be refused for that alone."""
    assert (Path(os.fspath(store.root)) / "annotations" / "000001.duckdb").is_file()
    assert pq.read_table(Path(os.fspath(store.root)) / "records" / "part-00000-00000.parquet").num_rows == NUMBER
