"""Predictions in SQL, in hits and in conditions."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.annotations import annotate
from index.build import build_index
from index.errors import StoreError
from index.filters import matching_sequences
from index.hits import available_columns, hit_table
from index.predictions import check_name
from index.search import Searcher
from index.sql import query
from raypipe.formats import write_table

LABELS = ["tRNA", "rRNA", "snRNA"]
SEQ_IDS = np.array([[4, 2, 9], [2, 4, -1]])
SCORES = np.array([[0.9, 0.5, 0.1], [1, 0.5, np.nan]], dtype=np.float32)
TYPES = [LABELS[seq_id % 3] for seq_id in range(8)]
FOLDS = {2: ("(..)", [0], [3]), 4: ("((..))", [0, 1], [5, 4])}


def typed(seq_id):
    """A row of rna_type."""
    return {"seq_id": seq_id, "label": TYPES[seq_id], "probability": 0.1 * seq_id, "probabilities": [0.5, 0.25, 0.25]}


def make_store(builder):
    """Ten sequences: an annotation column rna_type, predicted rna_types of the first eight, two structures."""
    store = builder.embedded(np.random.default_rng(0).standard_normal((10, builder.dimension)))
    annotations = builder.root / "annotations.tsv"
    annotations.write_text("id\trna_type\ttaxid\nR00001\ttRNA\t9606\nR00004\tsnRNA\t7\n")
    with store.lock():
        annotate(store, {"annotations": annotations})
    made = builder.prediction()
    store.put_prediction(made)
    for number, seq_ids in enumerate(([0, 1, 2], [3, 4, 5], [6, 7])):
        builder.write_predictions(store, made, number, [typed(seq_id) for seq_id in seq_ids])
    fold = builder.prediction("structure", "structure", "binary", ["pair"])
    store.put_prediction(fold)
    for seq_id, (dots, i, j) in FOLDS.items():
        row = {"seq_id": seq_id, "dot_bracket": dots, "i": i, "j": j, "score": [0.25] * len(i)}
        builder.write_predictions(store, fold, seq_id, [row])
    store.put_prediction(builder.prediction("pll", "pll", None, []))  # begun, nothing finished
    with store.lock():
        build_index(store)
    return store


@pytest.fixture
def store(builder):
    """To be changed by the test."""
    return make_store(builder)


@pytest.fixture(scope="module")
def standing(module_builder):
    """To be read only."""
    return make_store(module_builder)


@pytest.fixture(scope="module")
def crowded(module_builder):
    """To be read only: sets and tables whose names and columns meet."""
    store = module_builder.embedded(np.ones((10, module_builder.dimension)), name="crowded")
    table = module_builder.root / "crowded.tsv"
    table.write_text("id\tx_label\nR00009\t1\n")
    with store.lock():
        annotate(store, {"annotations": table})
    for made in (
        module_builder.prediction(),
        module_builder.prediction("token", "token", "binary", ["paired"]),
        module_builder.prediction("annotations_x"),
        module_builder.prediction("a.b", "sequence", "binary", ["x"]),
        module_builder.prediction("my-head", "sequence", "regression", ["x"]),
        module_builder.prediction("3p", "sequence", "regression", ["x"]),
    ):
        store.put_prediction(made)
    module_builder.write_predictions(store, store.prediction("rna_type"), 0, [typed(0)])
    return store


def hits(store, **options):
    return hit_table(store, Searcher.open(store), ["q1", "q2"], SEQ_IDS, SCORES, **options)


def test_views_join_like_annotations(standing):
    counted = query(
        standing,
        "SELECT label, count(*) AS n FROM rna_type JOIN sequences USING (seq_id) GROUP BY label ORDER BY label",
    )
    assert counted.to_pylist() == [{"label": name, "n": TYPES.count(name)} for name in sorted(LABELS)]
    both = "SELECT a.rna_type, p.label FROM annotations a JOIN rna_type p USING (seq_id) ORDER BY seq_id"
    assert query(standing, both).to_pylist() == [
        {"rna_type": "tRNA", "label": TYPES[1]},
        {"rna_type": "snRNA", "label": TYPES[4]},
    ]
    pairs = query(standing, "SELECT unnest(i) AS i, unnest(j) AS j FROM structure WHERE dot_bracket = '((..))'")
    assert pairs.to_pylist() == [{"i": 0, "j": 5}, {"i": 1, "j": 4}]


def test_a_set_that_has_begun_is_an_empty_view(standing):
    empty = query(standing, "FROM pll")
    assert empty.num_rows == 0
    assert empty.schema.names == ["seq_id", "pll", "scored", "pseudo_perplexity"]
    assert empty.schema.types == [pa.int64(), pa.float64(), pa.int32(), pa.float64()]


def test_the_sets_are_listed(standing):
    with pytest.raises(StoreError, match=r"there are: sequences, .*, annotations, rna_type, structure, pll$"):
        query(standing, "FROM fold")


def test_awkward_names(builder):
    store = builder.store([("A", "", "ACGU")])
    for name in ("x.1-b", "main", "query"):
        made = builder.prediction(name, "sequence", "regression", ["value"])
        store.put_prediction(made)
        builder.write_predictions(store, made, 0, [{"seq_id": 0, "value": 1}])
        assert query(store, f'SELECT "{name}".value FROM "{name}"')["value"].to_pylist() == [1]
        assert matching_sequences(store, f'"{name}".value = 1').tolist() == [0]
        assert matching_sequences(store, f'"{name}_value" = 1').tolist() == [0]


def test_parts_of_another_fingerprint_do_not_count(builder, store):
    stranger = builder.prediction(fingerprint="x" * 64)
    builder.write_predictions(store, stranger, 9, [{**typed(3), "seq_id": 9}])
    pq.write_table(pa.table({"seq_id": [9]}), store.root / "predictions" / "rna_type" / "part-000010.parquet")
    assert query(store, "SELECT count(*) AS n FROM rna_type").to_pylist() == [{"n": 8}]
    assert hits(store, columns=["rna_type_label"])["rna_type_label"].to_pylist()[2] is None
    assert matching_sequences(store, "rna_type.label IS NULL").tolist() == [8, 9]


def test_a_part_that_is_made_anew_counts_at_once(builder, store):
    made = store.prediction("rna_type")
    builder.write_predictions(store, builder.prediction(fingerprint="x" * 64), 2, [typed(6), typed(7)])
    assert query(store, "SELECT max(seq_id) AS n FROM rna_type").to_pylist() == [{"n": 5}]
    builder.write_predictions(store, made, 2, [typed(6)])
    assert query(store, "SELECT max(seq_id) AS n FROM rna_type").to_pylist() == [{"n": 6}]


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_part_is_said(store, number):
    made = store.prediction("rna_type")
    file = store.set_parts(made)[number]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=f"part-00000{number}"):
        query(store, "SELECT count(label) FROM rna_type")
    with pytest.raises(StoreError, match=f"part-00000{number}"):
        matching_sequences(store, "rna_type.probability < 0.5")
    with pytest.raises(
        StoreError, match=r"rna_type/part-00000.\.parquet: is damaged .*remove it .*raypipe predict again"
    ):
        hits(store, columns=["rna_type_label"])
    # Who asks for something else is not troubled.
    assert query(store, "SELECT count(*) AS n FROM sequences JOIN structure USING (seq_id)").to_pylist() == [{"n": 2}]
    assert {"rna_type", "structure", "pll", "embeddings"} <= {*query(store, "SHOW TABLES")["name"].to_pylist()}
    assert query(store, "DESCRIBE structure")["column_name"].to_pylist()[0] == "seq_id"
    with pytest.raises(StoreError, match=r"there are: sequences, .*rna_type, structure, pll$"):
        query(store, "FROM fold")
    assert matching_sequences(store, "taxid = 7").tolist() == [4]
    assert hits(store, columns=["structure_dot_bracket"]).num_rows == 5


@pytest.mark.parametrize("task", ["sequence", "pll"])
def test_damage_inside_of_a_part_names_the_file_and_the_way_out(builder, store, task):
    many = builder.prediction("many", "sequence", "regression", ["x"])
    if task == "pll":
        many = builder.prediction("many", "pll", None, [])
    store.put_prediction(many)
    row = {"value": 0.5} if task == "sequence" else {"pll": -1.5, "scored": 3, "pseudo_perplexity": 2.0}
    files = [builder.write_predictions(store, many, n, [{"seq_id": n, **row}]) for n in range(3)]
    content = bytearray(files[2].read_bytes())
    begin = pq.read_metadata(files[2]).row_group(0).column(1).dictionary_page_offset
    assert begin is not None
    content[begin : begin + 12] = b"\xff" * 12  # the header of a page; the footer stays whole
    files[2].write_bytes(content)
    column = next(iter(row))
    for asked in (f"SELECT sum({column}) FROM many", f'FROM sequences JOIN "MANY" USING (seq_id) ORDER BY {column}'):
        with pytest.raises(StoreError, match=r"predictions/many/part-000002\.parquet: is damaged") as caught:
            query(store, asked)
        assert f"raypipe {'mlm' if task == 'pll' else 'predict'} again" in str(caught.value)
    with pytest.raises(StoreError, match=r"many/part-000002\.parquet: is damaged .*; remove it"):
        matching_sequences(store, f"sin(many_{column}) < 5")


def test_damaged_vectors_and_sequences(store):
    parts = store.set_parts(store.embedding("nano"))
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    assert query(store, "FROM rna_type").num_rows == 8
    with pytest.raises(StoreError, match=r"nano/part-00001\.parquet: is damaged .*raypipe embed again"):
        query(store, "SELECT count(embedding) FROM Embeddings")
    sequences = store.parts("sequences")[0]
    sequences.write_bytes(sequences.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"sequences/part-.*: is damaged .*restore it from a copy"):
        query(store, "FROM sequences")


def test_a_statement_opens_the_parts_of_what_it_names_only(store, monkeypatch):
    opened = []
    monkeypatch.setattr("index.predictions.fitting_parts", lambda store, made, ids=None: opened.append(made.name) or [])
    monkeypatch.setattr("index.views.fitting_parts", lambda store, made, ids=None: opened.append(made.name) or [])
    query(store, "SELECT count(*) FROM sequences JOIN records USING (seq_id)")
    query(store, "SHOW TABLES")
    assert opened == []
    query(store, 'SELECT * FROM "Structure"')
    query(store, "FROM EMBEDDINGS")
    assert opened == ["structure", "nano"]


def test_a_set_that_is_not_named_refuses_instead_of_being_empty(store):
    assert query(store, "FROM query_table('rna_type')").num_rows == 8
    with pytest.raises(StoreError, match="predictions 'rna_type': name them in the statement itself"):
        query(store, "FROM query('FROM rna' || '_type')")


def test_predictions_of_an_unknown_kind(builder, store):
    store.put_prediction(builder.prediction("new", "folding"))
    with pytest.raises(StoreError, match="predictions 'new': no predictions of kind 'folding'"):
        query(store, "FROM new")
    assert query(store, "FROM sequences").num_rows == 10


def test_columns_of_hits(standing):
    assert hits(standing).column_names == ["query", "rank", "id", "score", "length", "description", "rna_type", "taxid"]
    predicted = [
        *("rna_type_label", "rna_type_probability", "rna_type_probabilities"),
        *("structure_dot_bracket", "structure_i", "structure_j", "structure_score"),
        *("pll_pll", "pll_scored", "pll_pseudo_perplexity"),
    ]
    assert available_columns(standing)[6:] == ["rna_type", "taxid", *predicted, "seq_id", "n_records"]
    found = hits(standing, columns=[*predicted[:5], "pll_scored", "rna_type", "seq_id"])
    assert found["seq_id"].to_pylist() == [4, 2, 9, 2, 4]
    assert found["rna_type_label"].to_pylist() == [TYPES[4], TYPES[2], None, TYPES[2], TYPES[4]]
    assert found["rna_type_probability"].to_pylist()[0] == pytest.approx(0.4)
    assert found["structure_dot_bracket"].to_pylist() == ["((..))", "(..)", None, "(..)", "((..))"]
    assert found["structure_i"].to_pylist() == [[0, 1], [0], None, [0], [0, 1]]
    assert found["rna_type"].to_pylist() == ["snRNA", None, None, None, "snRNA"]
    assert found["pll_scored"].to_pylist() == [None] * 5
    assert found["pll_scored"].type == pa.int32()
    with pytest.raises(StoreError, match=r"no column 'rna_type_x'; there are: .*rna_type_label, .*n_records"):
        hits(standing, columns=["rna_type_x"])


def test_no_hits_and_none_that_are_predicted(standing):
    opened = Searcher.open(standing)
    none = hit_table(
        standing, opened, ["q"], np.array([[-1]]), np.array([[np.nan]], np.float32), columns=["structure_i", "id"]
    )
    assert none.num_rows == 0
    one = hit_table(standing, opened, ["q"], np.array([[9]]), np.array([[1]], np.float32), columns=["structure_i"])
    assert one["structure_i"].to_pylist() == [None]
    assert one["structure_i"].type == pa.list_(pa.int32())


def test_hits_never_multiply(builder, store):
    builder.write_predictions(store, store.prediction("rna_type"), 7, [typed(4)])  # a shard of another plan
    found = hits(store, columns=["seq_id", "rna_type_label"])
    assert found["seq_id"].to_pylist() == [4, 2, 9, 2, 4]
    assert found["rna_type_label"].to_pylist() == [TYPES[4], TYPES[2], None, TYPES[2], TYPES[4]]


def test_lists_of_hits_in_every_format(standing, tmp_path):
    found = hits(standing, columns=["id", "structure_i", "rna_type_probabilities"])

    def text(format):
        stream = io.StringIO()
        write_table(found, stream, format)
        return stream.getvalue()

    assert text("tsv").splitlines()[1:4] == [
        "R00004\t[0, 1]\t[0.5, 0.25, 0.25]",
        "R00002\t[0]\t[0.5, 0.25, 0.25]",
        "R00009\t\t",
    ]
    rows = list(csv.DictReader(io.StringIO(text("csv"))))
    assert json.loads(rows[0]["structure_i"]) == [0, 1]
    objects = [json.loads(line) for line in text("jsonl").splitlines()]
    assert objects[0]["rna_type_probabilities"] == [0.5, 0.25, 0.25]
    assert objects[2]["structure_i"] is None
    write_table(found, tmp_path / "x.parquet", "parquet")
    assert pq.read_table(tmp_path / "x.parquet")["structure_i"].to_pylist() == found["structure_i"].to_pylist()


def test_an_annotation_column_of_a_predictions_name(store, tmp_path):
    (tmp_path / "more.tsv").write_text("id\trna_type_label\tlabel\tscored\nR00009\tmine\tother\t3\n")
    with store.lock():
        annotate(store, {"more": tmp_path / "more.tsv"})
    found = hits(store, columns=["rna_type_label", "rna_type_label_", "label"])
    assert found.to_pylist()[2] == {"rna_type_label": "mine", "rna_type_label_": None, "label": "other"}
    assert found.to_pylist()[0] == {"rna_type_label": None, "rna_type_label_": TYPES[4], "label": None}
    assert matching_sequences(store, "rna_type_label = 'mine'").tolist() == [9]
    assert matching_sequences(store, "label = 'other'").tolist() == [9]
    assert matching_sequences(store, "scored = 3").tolist() == [9]
    assert matching_sequences(store, "rna_type.label = 'tRNA'").tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("rna_type.label = 'tRNA'", [0, 3, 6]),
        ("RNA_TYPE.Label = 'tRNA'", [0, 3, 6]),
        ("rna_type_label = 'tRNA'", [0, 3, 6]),
        ("label = 'tRNA'", [0, 3, 6]),
        ("rna_type = 'tRNA'", [1]),  # the annotation's column
        ("annotations.rna_type = 'tRNA'", [1]),
        ("annotations_rna_type = 'tRNA'", [1]),
        ("rna_type = 'snRNA' AND rna_type.label = 'rRNA'", [4]),
        ("rna_type.label = 'rRNA' OR rna_type = 'tRNA'", [1, 4, 7]),
        ("rna_type.probability > 0.55 AND length > 0", [6, 7]),
        ("rna_type.label IS NULL", [8, 9]),
        ("rna_type.seq_id = 3", [3]),
        ("rna_type.probabilities[1] = 0.5 AND structure.dot_bracket IS NOT NULL", [2, 4]),
        ("list_contains(structure_j, 5)", [4]),
        ("len(list_filter(structure.i, lambda x: x > 0)) = 1", [4]),
        ("structure_dot_bracket LIKE '((%' AND taxid = 7", [4]),
        ("seq_id IN (SELECT seq_id FROM RNA_type WHERE label = 'snRNA')", [2, 5]),
        ("pll.pll < 0", []),
        ("pll IS NULL AND seq_id < 2", [0, 1]),
        ("taxid = 7", [4]),
    ],
)
def test_conditions(standing, where, expected):
    assert matching_sequences(standing, where).tolist() == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a.b.positive", r"no column 'a'; .* Double quotes are needed around such a name: \"a\.b\"$"),
        ("my-head.value > 1", r"no column 'my'; .* Double quotes are needed around such a name: \"my-head\"$"),
        ("3p.value > 1", r"Double quotes are needed around such a name: \"3p\"$"),
        ('"my-head".worth > 1', r"no column 'worth' in my-head; it has: seq_id, value$"),
        ("rna_type.lable = 'tRNA'", r"no column 'lable' in rna_type; it has: seq_id, label, probability, probab"),
        ("lable = 'tRNA'", r"no column 'lable'; there are: .*annotations: .*; rna_type: seq_id, label"),
        ("probabilities[1] > 0.5", r"'probabilities' is ambiguous: write (rna_type|token).probabilities or "),
        ("annotations_x_label = 1", r"is ambiguous: write annotations.x_label or annotations_x.label"),
        ("rna_type.probability = 'high'", r"Could not convert string"),
    ],
)
def test_bad_conditions(crowded, where, message):
    with pytest.raises(StoreError, match=message):
        matching_sequences(crowded, where)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Sequences", "taken by the store itself"),
        ("embeddings", "taken by the store itself"),
        ("SELECT", "a word of SQL"),
        ("table", "a word of SQL"),
        ("Annotations", "that of an annotation table"),
        ("RNA_type", "too near to the predictions 'rna_type'"),
        ("a/b", "use letters, digits"),
        ("", "use letters, digits"),
        ("..", "use letters, digits"),
    ],
)
def test_names_that_cannot_be(standing, name, message):
    with pytest.raises(StoreError, match=message):
        check_name(standing, name)


def test_names_that_can_be(standing, builder):
    for name in ("rna_type", "structure", "token", "logits", "my-head.2", "taxid"):
        check_name(standing, name)
    check_name(builder.store(None, "none"), "rna_type")


def test_annotation_tables_leave_the_names_of_predictions_alone(store, tmp_path):
    with store.lock(), pytest.raises(StoreError, match=r"'RNA_type' is taken by predictions of that name"):
        annotate(store, {"RNA_type": tmp_path / "annotations.tsv"})
    assert query(store, "SELECT count(*) AS n FROM rna_type").to_pylist() == [{"n": 8}]
