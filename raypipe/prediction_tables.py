"""Predictions as Arrow tables, with the columns of `index.schema.predictions_schema`.

Legend: L nucleotides of one sequence, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from index.predictions import schema_of
from index.sets import Prediction
from raypipe.vector_tables import list_array, vector_array

Columns = dict[str, Any]
"""Arrow arrays, or lists that Arrow converts, by column."""


def refuse_prediction(made: Prediction, row: Any) -> str | None:
    """Why what was computed of a sequence cannot be stored; None where it can."""
    dtype = made.dtype if made.task == "logits" else "float32"
    limit = np.finfo(dtype).max
    # Written so that NaN fails too.
    if (np.abs(_VALUES[made.task](row)) <= limit).all():
        return None
    return f"its values do not fit {dtype} (beyond {limit:.3g}, or not finite)"


def prediction_table(made: Prediction, seq_ids: np.ndarray, rows: Sequence[Any]) -> pa.Table:
    """The table of a shard's file.

    Args:
        seq_ids: (N,) int64.
        rows: what the model gave for each of them: SequencePrediction, TokenPrediction, ContactPrediction,
            PseudoLikelihood, VariantEffects, or logits (L, C), by the task of `made`.
    """
    schema = schema_of(made)
    columns = _COLUMNS[made.task](made, rows, schema)
    arrays = [pa.array(seq_ids, pa.int64())]
    for field in list(schema)[1:]:
        column = columns[field.name]
        arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
    return pa.table(arrays, schema=schema)


def _sequence(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    values = _stacked([row.values[None] for row in rows], made)
    if made.problem == "multiclass":
        labels, best = [row.label for row in rows], [row.values.max() for row in rows]
        return {"label": labels, "probability": best, "probabilities": vector_array(values, "float32")}
    if made.problem == "binary":
        return {"positive": [row.positive for row in rows], "probability": values[:, 0]}
    if made.problem == "multilabel":
        return {"labels": [row.labels for row in rows], "probabilities": vector_array(values, "float32")}
    return {"value": values[:, 0]} if values.shape[1] == 1 else {"values": vector_array(values, "float32")}


def _token(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    values = _stacked([row.values for row in rows], made)
    name = "values" if made.problem == "regression" else "probabilities"
    type_ = schema.field(name).type
    # Single numbers where there is one output, else a vector for every nucleotide.
    flat = pa.array(values[:, 0]) if type_.value_type == pa.float32() else vector_array(values, "float32")
    columns: Columns = {name: list_array(flat, [len(row.values) for row in rows], type_)}
    if made.problem == "multiclass":
        columns["labels"] = [row.labels for row in rows]
    return columns


def _contact(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    counts = [len(row.i) for row in rows]
    columns: Columns = {}
    for name, dtype in (("i", np.int32), ("j", np.int32), ("score", np.float32)):
        flat = np.concatenate([np.zeros(0, dtype), *(getattr(row, name) for row in rows)]).astype(dtype)
        columns[name] = list_array(pa.array(flat), counts, schema.field(name).type)
    if "label" in schema.names:
        # Taken by Arrow: a Python string for every pair would be the most of what a shard holds.
        which = np.concatenate([np.zeros(0, np.int32), *(row.label for row in rows)])
        names = pa.array(made.labels, pa.string()).take(pa.array(which))
        columns["label"] = list_array(names, counts, schema.field("label").type)
    if "dot_bracket" in schema.names:
        columns["dot_bracket"] = [row.structure.dot_bracket for row in rows]
    return columns


def _pll(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    return {
        "pll": [row.pll for row in rows],
        "scored": [row.scored for row in rows],
        "pseudo_perplexity": [row.perplexity if row.scored else None for row in rows],
    }


def _logits(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    type_ = schema.field("logits").type
    return {"logits": list_array(vector_array(_stacked(rows, made), made.dtype), [len(row) for row in rows], type_)}


def _variants(made: Prediction, rows: Sequence[Any], schema: pa.Schema) -> Columns:
    type_ = schema.field("scores").type
    scores = np.concatenate([np.zeros((0, 4), np.float32), *(row.scores for row in rows)])
    unknown = pa.array(np.isnan(scores).any(axis=1))
    flat = pa.array(np.nan_to_num(scores).reshape(-1), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=type_.value_type, mask=unknown)
    return {"scores": list_array(vectors, [len(row.scores) for row in rows], type_)}


def _stacked(parts: Sequence[np.ndarray], made: Prediction) -> np.ndarray:
    """(..., C) rows one below the other, (N, C) float32."""
    return np.concatenate([np.zeros((0, max(1, len(made.labels))), np.float32), *parts])


_COLUMNS: dict[str, Callable[[Prediction, Sequence[Any], pa.Schema], Columns]] = {
    "sequence": _sequence,
    "token": _token,
    "contact": _contact,
    "structure": _contact,
    "pll": _pll,
    "logits": _logits,
    "variants": _variants,
}
# What has to be a number: not the perplexity where nothing is scored, nor the scores at a letter that is no nucleotide.
_VALUES: dict[str, Callable[[Any], np.ndarray]] = {
    "sequence": lambda row: row.values,
    "token": lambda row: row.values,
    "contact": lambda row: row.score,
    "structure": lambda row: row.score,
    "pll": lambda row: np.array(row.pll),
    "logits": lambda row: row,
    "variants": lambda row: row.log_probabilities,
}
