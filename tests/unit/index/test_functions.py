"""search, neighbors and embed in DuckDB."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import duckdb
import numpy as np
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import QuestionError
from index.functions import Functions, check_stopped
from index.sql import Snapshot, query
from tests.dinucleotides import DinucleotideAsker, counts

NUMBER = 60


@pytest.fixture(scope="module")
def store(module_builder):
    records = module_builder.random_records(NUMBER)
    store = module_builder.embedded(np.array([counts(sequence) for _, _, sequence in records]))
    with store.lock():
        build_index(store, kind="flat", transform="none")
    table = module_builder.root / "t.tsv"
    table.write_text("id\ttaxid\n" + "".join(f"R{n:05d}\t{9606 if n % 3 else 7}\n" for n in range(NUMBER)))
    with store.lock():
        annotate(store, {"rna": table})
    return store


@pytest.fixture
def asker(store):
    return DinucleotideAsker(store)


@pytest.fixture
def snapshot(store, asker):
    with Snapshot(store, asker) as opened:
        yield opened


def sequence_of(store, number):
    return query(store, "SELECT sequence FROM sequences WHERE seq_id = ?", [number])["sequence"][0].as_py()


def test_a_search_gives_what_the_index_finds(store, asker, snapshot):
    text = sequence_of(store, 5)
    found = snapshot.query(f"FROM search('{text}', k := 4)")
    assert [(field.name, str(field.type)) for field in found.schema] == [
        ("rank", "int32"),
        ("seq_id", "int64"),
        ("id", "string"),
        ("score", "float"),
        ("length", "int32"),
        ("n_records", "int32"),
    ]
    assert asker.asked == [("search", 1, 4, None)]  # once, though all arguments are constant
    seq_ids, scores = asker.searcher.search(counts(text)[None], 4)
    assert found["rank"].to_pylist() == [1, 2, 3, 4]
    assert found["seq_id"].to_pylist() == seq_ids[0].tolist()
    assert found["score"].to_numpy() == pytest.approx(scores[0])
    assert (found["id"][0].as_py(), found["length"][0].as_py(), found["n_records"][0].as_py()) == (
        "R00005",
        len(text),
        1,
    )
    assert snapshot.query(f"FROM search('{text}')").num_rows == 10


def test_filters_act_before_the_search_and_hits_join_annotations(store, snapshot):
    sql = "SELECT s.rank, rna.taxid FROM search($q, k := 5, filter := 'taxid = 7') s JOIN rna USING (seq_id) ORDER BY 1"
    rows = snapshot.query(sql, {"q": sequence_of(store, 1)}).to_pylist()
    assert rows == [{"rank": rank, "taxid": 7} for rank in range(1, 6)]


def test_a_column_of_queries_is_one_search_for_each_k_and_filter(store, asker, snapshot):
    sql = "SELECT q.seq_id AS asked, s.* FROM sequences q, LATERAL (SELECT * FROM search(q.sequence, k := 2)) s"
    rows = snapshot.query(sql).to_pylist()
    assert asker.asked == [("search", NUMBER, 2, None)]
    assert sorted(row["asked"] for row in rows) == sorted(2 * list(range(NUMBER)))
    assert all(row["seq_id"] == row["asked"] for row in rows if row["rank"] == 1)
    asker.asked.clear()
    varied = "FROM sequences q, search(q.sequence, k := q.seq_id % 2 + 1, filter := 'taxid = ' || [7, 9606][k])"
    snapshot.query(varied.replace("[k]", "[q.seq_id % 2 + 1]"))
    assert sorted(asker.asked) == [
        ("search", NUMBER // 2, 1, "taxid = 7"),
        ("search", NUMBER // 2, 2, "taxid = 9606"),
    ]


def test_equal_queries_are_asked_once_and_null_has_no_rows(store, asker, snapshot):
    values = f"(VALUES (1, '{sequence_of(store, 2)}'), (2, NULL), (3, '{sequence_of(store, 2)}')) q(n, text)"
    rows = snapshot.query(f"SELECT n, id FROM {values}, search(q.text, k := 1) ORDER BY n").to_pylist()
    assert rows == [{"n": 1, "id": "R00002"}, {"n": 3, "id": "R00002"}]
    assert asker.asked == [("search", 1, 1, None)]
    assert snapshot.query("FROM search(NULL)").num_rows == 0
    assert snapshot.query("SELECT embed(NULL) AS v").to_pylist() == [{"v": None}]


def test_neighbors_leave_the_record_itself_out(store, snapshot):
    rows = snapshot.query("FROM neighbors('R00007', k := 3)").to_pylist()
    assert "R00007" not in [row["id"] for row in rows]
    assert len(rows) == 3
    # As the view of the graph is called; a table and a function may share a name.
    with pytest.raises(QuestionError, match=r"no record with id nobody"):
        snapshot.query("FROM neighbors('nobody')")


def test_embed_gives_vectors_of_a_column(store, snapshot):
    rows = snapshot.query("SELECT sequence, embed(sequence) AS v FROM sequences").to_pylist()
    assert len(rows) == NUMBER
    assert all(row["v"] == counts(row["sequence"]).tolist() for row in rows)
    nearest = "SELECT seq_id FROM embeddings ORDER BY list_cosine_similarity(embedding, embed($q)) DESC LIMIT 1"
    assert snapshot.query(nearest, {"q": sequence_of(store, 9)}).to_pylist() == [{"seq_id": 9}]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("FROM search('PROTEIN')", "'PROTEIN' is no RNA"),
        ("FROM search('ACGU', k := 0)", "k is 0; ask for at least one hit"),
        ("FROM search('ACGU', k := NULL)", "k is NULL; ask for at least one hit"),
        ("FROM search('ACGU', filter := 'taxon = 7')", "no column 'taxon'; there are: .*"),
        ("SELECT embed('PROTEIN')", "'PROTEIN' is no RNA"),
    ],
)
def test_errors_are_the_message_alone(snapshot, sql, words):
    with pytest.raises(QuestionError, match=rf"^{words}$"):
        snapshot.query(sql)


def test_functions_are_not_there_without_an_asker(store):
    with pytest.raises(QuestionError, match=r"search.* does not exist"):
        query(store, "FROM search('ACGU')")


def test_a_statement_that_is_stopped_asks_no_more(store, asker):
    """As by Ctrl-C, which DuckDB does not tell to what it calls."""
    asking, went_on = threading.Event(), threading.Event()

    class Slow(DinucleotideAsker):
        def search(self, sequences, k, where):
            asking.set()
            for _ in range(500):
                check_stopped()
                time.sleep(0.02)
            went_on.set()
            return super().search(sequences, k, where)

    connection = duckdb.connect()
    functions = Functions(connection, Slow(store))
    functions.make_macros("memory.main")
    caught = []

    def ask():
        try:
            connection.execute("FROM search('ACGU')").fetchall()
        except duckdb.Error as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asking.wait(10)
    functions.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert not went_on.is_set()
    assert "stopped" in str(functions.cause(caught[0]))
    functions.remove()
    connection.close()


def test_functions_go_with_the_process_quietly(root):
    """DuckDB's binding counts aloud what is left at the end, where functions were not removed."""
    code = """
import duckdb
from index.functions import Functions
connection = duckdb.connect()
Functions(connection, None).make_macros("memory.main")
cursor = connection.cursor()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
