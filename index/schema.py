"""Arrow schemas of every table of a store: the contract that ingest, actors, index and SQL share.

The folders and their meaning are drawn in `index/store.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

FORMAT_VERSION = 1
VIEWS = ("sequences", "records", "rejects", "embeddings", "neighbors")  # what the store itself is called in SQL
FOOTER_KEY = b"raypipe"

SEQUENCES = pa.schema(
    [
        pa.field("seq_id", pa.int64(), nullable=False),
        pa.field("md5", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
    ]
)
RECORDS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("seq_id", pa.int64(), nullable=False),
    ]
)
REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("seq_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
NEIGHBORS = pa.schema(
    [
        pa.field("seq_id", pa.int64(), nullable=False),
        pa.field("neighbor", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)

VECTOR_TYPES = {"float16": pa.float16(), "float32": pa.float32()}
PROBLEMS = ("multiclass", "binary", "multilabel", "regression")


def vector_type(dimension: int, dtype: str) -> pa.FixedSizeListType:
    """Type of one stored vector: FixedSizeList of `dimension` halffloats or floats.

    Raises:
        ValueError: `dtype` is neither "float16" nor "float32".
    """
    if dtype not in VECTOR_TYPES:
        raise ValueError(f"vectors are stored as float16 or float32, not {dtype!r}")
    return pa.list_(pa.field("element", VECTOR_TYPES[dtype], nullable=False), dimension)


def _list_of(element: pa.DataType, *, nullable: bool = False) -> pa.ListType:
    return pa.list_(pa.field("element", element, nullable=nullable))


def embeddings_schema(dimension: int, dtype: str) -> pa.Schema:
    """One pooled vector per distinct sequence."""
    vector = pa.field("embedding", vector_type(dimension, dtype), nullable=False)
    return pa.schema([SEQUENCES.field("seq_id"), vector])


def tokens_schema(dimension: int, dtype: str) -> pa.Schema:
    """One row of `dimension` values per nucleotide, special tokens excluded."""
    values = _list_of(vector_type(dimension, dtype))
    return pa.schema([SEQUENCES.field("seq_id"), pa.field("values", values, nullable=False)])


def predictions_schema(task: str, problem: str | None, num_labels: int, dtype: str = "float32") -> pa.Schema:
    """One row per sequence: what one head, or one use of the masked language model, says of it.

    seq_id, then, for a sequence of L nucleotides (specials excluded; C = `num_labels`):

        sequence   multiclass: label, probability (of that label), probabilities [C]; binary: positive, probability;
                   multilabel: labels, probabilities [C]; regression: value, or values [C] where C > 1
        token      multiclass: labels [L], probabilities [L][C]; binary: probabilities [L];
                   multilabel: probabilities [L][C]; regression: values [L], or [L][C] where C > 1
        contact    i, j, score, each [pairs], 0-based with i < j; label [pairs] where C > 1;
                   dot_bracket where binary with C = 1
        structure  dot_bracket; i, j, score, each [pairs]
        pll        pll (natural logarithm, summed over the scored nucleotides), scored (how many), pseudo_perplexity
                   (NULL where none is scored)
        logits     logits [L][C] of `dtype`, C the size of the vocabulary
        variants   scores [L][4]: log p(alternative) - log p(reference) for A C G U; NULL at a letter that is none

    Args:
        task: "sequence", "token", "contact", "structure", "pll", "logits" or "variants".
        problem: "multiclass", "binary", "multilabel" or "regression"; of the first three tasks only.
        dtype: "float16" or "float32", of logits; everything else has the type above.

    Raises:
        ValueError: no such task, problem or dtype, or `num_labels` below 1.
    """
    if num_labels < 1:
        raise ValueError(f"predictions have at least one label or output, not {num_labels}")
    if task in ("sequence", "token", "contact") and problem not in PROBLEMS:
        raise ValueError(f"a {task} head's problem is one of {', '.join(PROBLEMS)}, not {problem!r}")
    row = vector_type(num_labels, "float32")
    pairs = {"i": _list_of(pa.int32()), "j": _list_of(pa.int32()), "score": _list_of(pa.float32())}
    columns: dict[str, pa.DataType]
    if task == "sequence":
        columns = {
            "multiclass": {"label": pa.string(), "probability": pa.float32(), "probabilities": row},
            "binary": {"positive": pa.bool_(), "probability": pa.float32()},
            "multilabel": {"labels": _list_of(pa.string()), "probabilities": row},
            "regression": {"value": pa.float32()} if num_labels == 1 else {"values": row},
        }[str(problem)]
    elif task == "token":
        columns = {
            "multiclass": {"labels": _list_of(pa.string()), "probabilities": _list_of(row)},
            "binary": {"probabilities": _list_of(pa.float32())},
            "multilabel": {"probabilities": _list_of(row)},
            "regression": {"values": _list_of(pa.float32() if num_labels == 1 else row)},
        }[str(problem)]
    elif task == "contact":
        labels = {"label": _list_of(pa.string())} if num_labels > 1 else {}
        structure = {"dot_bracket": pa.string()} if problem == "binary" and num_labels == 1 else {}
        columns = {**pairs, **labels, **structure}
    elif task == "structure":
        columns = {"dot_bracket": pa.string(), **pairs}
    elif task == "pll":
        columns = {"pll": pa.float64(), "scored": pa.int32(), "pseudo_perplexity": pa.float64()}
    elif task == "logits":
        columns = {"logits": _list_of(vector_type(num_labels, dtype))}
    elif task == "variants":
        columns = {"scores": _list_of(vector_type(4, "float32"), nullable=True)}
    else:
        raise ValueError(f"no predictions of kind {task!r}")
    nullable = {"pseudo_perplexity"}
    fields = [pa.field(name, type_, nullable=name in nullable) for name, type_ in columns.items()]
    return pa.schema([SEQUENCES.field("seq_id"), *fields])


def with_footer(schema: pa.Schema, footer: dict[str, Any]) -> pa.Schema:
    """`schema` carrying `footer` as JSON in the Parquet key-value metadata."""
    return schema.with_metadata({**(schema.metadata or {}), FOOTER_KEY: json.dumps(footer, sort_keys=True)})


def read_footer(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The footer that `with_footer` wrote, or {} where there is none."""
    raw = (metadata or {}).get(FOOTER_KEY)
    return json.loads(raw) if raw else {}
