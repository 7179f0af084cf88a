"""Columns of predictions, written and read back."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import duck
from index.schema import predictions_schema, read_footer, with_footer

HALVES = [np.float16(0.5), np.float16(-1)]
PAIRS = {"i": [0, 1], "j": [9, 8], "score": [0.5, 0.25]}

# task, problem, labels, dtype; a row of it; DuckDB's types.
KINDS = [
    (
        ("sequence", "multiclass", 3, "float32"),
        {"label": "tRNA", "probability": 0.5, "probabilities": [0.5, 0.25, 0.25]},
        ["VARCHAR", "FLOAT", "FLOAT[]"],
    ),
    (("sequence", "binary", 1, "float32"), {"positive": True, "probability": 0.75}, ["BOOLEAN", "FLOAT"]),
    (
        ("sequence", "multilabel", 2, "float32"),
        {"labels": ["a"], "probabilities": [0.75, 0.25]},
        ["VARCHAR[]", "FLOAT[]"],
    ),
    (("sequence", "regression", 1, "float32"), {"value": -1.5}, ["FLOAT"]),
    (("sequence", "regression", 2, "float32"), {"values": [-1.5, 2.0]}, ["FLOAT[]"]),
    (
        ("token", "multiclass", 2, "float32"),
        {"labels": ["a", "b"], "probabilities": [[0.75, 0.25], [0.0, 1.0]]},
        ["VARCHAR[]", "FLOAT[][]"],
    ),
    (("token", "binary", 1, "float32"), {"probabilities": [0.5, 0.25]}, ["FLOAT[]"]),
    (("token", "multilabel", 2, "float32"), {"probabilities": [[0.5, 0.25]]}, ["FLOAT[][]"]),
    (("token", "regression", 1, "float32"), {"values": [0.5, -4.0]}, ["FLOAT[]"]),
    (("token", "regression", 2, "float32"), {"values": [[0.5, -4.0]]}, ["FLOAT[][]"]),
    (
        ("contact", "binary", 1, "float32"),
        {**PAIRS, "dot_bracket": "((......))"},
        ["INTEGER[]", "INTEGER[]", "FLOAT[]", "VARCHAR"],
    ),
    (
        ("contact", "multiclass", 2, "float32"),
        {**PAIRS, "label": ["WC", "other"]},
        ["INTEGER[]", "INTEGER[]", "FLOAT[]", "VARCHAR[]"],
    ),
    (("contact", "regression", 1, "float32"), PAIRS, ["INTEGER[]", "INTEGER[]", "FLOAT[]"]),
    (
        ("structure", "binary", 1, "float32"),
        {"dot_bracket": "((......))", **PAIRS},
        ["VARCHAR", "INTEGER[]", "INTEGER[]", "FLOAT[]"],
    ),
    (
        ("pll", None, 1, "float32"),
        {"pll": -12.5, "scored": 9, "pseudo_perplexity": None},
        ["DOUBLE", "INTEGER", "DOUBLE"],
    ),
    (("logits", None, 2, "float16"), {"logits": [HALVES, HALVES]}, ["FLOAT[][]"]),
    (("logits", None, 2, "float32"), {"logits": [[1.5, 0.1], [0.0, -1.0]]}, ["FLOAT[][]"]),
    (("variants", None, 4, "float32"), {"scores": [[0.0, -1.0, -2.5, 0.5], None]}, ["FLOAT[][]"]),
]


@pytest.mark.parametrize(("kind", "row", "types"), KINDS, ids=lambda value: str(value) if type(value) is tuple else "")
def test_columns_of_every_kind(tmp_path, kind, row, types):
    schema = predictions_schema(*kind)
    assert schema.names == ["seq_id", *row]
    file = tmp_path / "part.parquet"
    rows = [{"seq_id": 7, **row}, {"seq_id": 8, **{name: row[name] for name in reversed(row)}}]
    table = pa.Table.from_pylist(rows, schema=with_footer(schema, {"rows": 2}))
    pq.write_table(table, file)
    read = pq.read_table(file)
    assert read.schema.equals(schema)
    assert read.equals(table)
    assert read_footer(read.schema.metadata) == {"rows": 2}
    for source in (f"FROM {duck.parquet([file])}", duck.no_rows(schema)):
        described = duckdb.execute(f"DESCRIBE {source}").fetchall()
        assert [name for name, *_ in described] == schema.names
        assert [type_ for _, type_, *_ in described] == ["BIGINT", *types]


def test_only_what_may_lack_is_nullable():
    def nullable(schema):
        return [field.name for field in schema if field.nullable]

    assert [kind for kind, _, _ in KINDS if nullable(predictions_schema(*kind))] == [("pll", None, 1, "float32")]
    assert nullable(predictions_schema("pll", None, 1)) == ["pseudo_perplexity"]
    assert predictions_schema("variants", None, 4).field("scores").type.value_field.nullable
    assert not predictions_schema("token", "multilabel", 4).field("probabilities").type.value_field.nullable
    assert predictions_schema("token", "multilabel", 4).field("probabilities").type.value_type.list_size == 4
    assert predictions_schema("logits", None, 26, "float16").field("logits").type.value_type.value_type == pa.float16()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fold", "binary", 1), "no predictions of kind 'fold'"),
        (("token", None, 1), "a token head's problem is one of multiclass, .*, not None"),
        (("contact", "ranking", 1), "a contact head's problem is one of .*, not 'ranking'"),
        (("sequence", "multiclass", 0), "at least one label or output, not 0"),
        (("logits", None, 26, "bfloat16"), "not 'bfloat16'"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        predictions_schema(*arguments)
