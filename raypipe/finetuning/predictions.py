"""What a finished head says of the sequences that were held out, with their labels beside it: Parquet and TSV."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.losses import IGNORE
from model.predictions import ContactPrediction, SequencePrediction, TokenPrediction
from model.structure import Structure
from model.structure_metrics import compare_pairs
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.scoring import said_pairs
from raypipe.finetuning.spaces import Space
from raypipe.text_forms import cell

PARQUET, TSV = "predictions.parquet", "predictions.tsv"


def write_predictions(folder: Path, examples: Examples, places: np.ndarray, predictions: Sequence[Any]) -> None:
    """Write both files.

    Args:
        folder: where to.
        examples: with their labels.
        places: of those that were predicted.
        predictions: as `Model.predict` gives them, in the order of `places`.
    """
    row = _ROWS[examples.space.task]
    rows = [
        {
            "id": examples.ids[place],
            "part": str(examples.parts[place]),
            "sequence": examples.sequences[place],
            **row(examples.space, examples.sequences[place], examples.labels[place], found),
        }
        for place, found in zip(places.tolist(), predictions, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / PARQUET)
    with (folder / TSV).open("w", encoding="utf-8") as file:
        file.write("\t".join(rows[0]) + "\n")
        for one in rows:
            file.write("\t".join(map(_text, one.values())) + "\n")


def _sequence(space: Space, sequence: str, labels: np.ndarray, found: SequencePrediction) -> dict[str, Any]:
    values = _floats(found.values)
    if space.problem == "multiclass":
        best = max(values)
        return {"label": _name(space, labels), "predicted": found.label, "probability": best, "probabilities": values}
    if space.problem == "binary":
        wanted = None if labels == IGNORE else bool(labels > 0.5)
        return {"label": wanted, "predicted": found.positive, "probability": values[0]}
    if space.problem == "multilabel":
        wanted = [name for name, label in zip(space.names, labels.tolist(), strict=True) if label > 0.5]
        return {"labels": wanted, "predicted": list(found.labels or ()), "probabilities": values}
    if space.num_labels == 1:
        return {"value": _known(float(labels)), "predicted": values[0]}
    return {"values": _all_known(labels), "predicted": values}


def _token(space: Space, sequence: str, labels: np.ndarray, found: TokenPrediction) -> dict[str, Any]:
    values = [_floats(row) for row in found.values]
    single = [row[0] for row in values] if space.num_labels == 1 else values
    if space.problem == "multiclass":
        wanted = [None if label < 0 else space.names[label] for label in labels.tolist()]
        return {"labels": wanted, "predicted": found.labels, "probabilities": values}
    if space.problem == "regression":
        return {"values": _all_known(labels), "predicted": single}
    wanted = np.where(labels == IGNORE, np.nan, labels)
    return {"labels": _all_known(wanted), "probabilities": single}


def _structure(space: Space, sequence: str, labels: np.ndarray, found: ContactPrediction) -> dict[str, Any]:
    assert found.structure is not None
    known = Structure(sequence, tuple(map(tuple, labels.tolist())))
    figures = asdict(compare_pairs(said_pairs(space.task, found), labels, len(sequence)).scores())
    return {"structure": known.dot_bracket, "predicted": found.structure.dot_bracket, **figures}


def _contact(space: Space, sequence: str, labels: np.ndarray, found: ContactPrediction) -> dict[str, Any]:
    figures = asdict(compare_pairs(said_pairs(space.task, found), labels, len(sequence)).scores())
    said = {"i": found.i.tolist(), "j": found.j.tolist(), "score": _floats(found.score)}
    return {"contacts": labels.tolist(), **said, **figures}


def _name(space: Space, label: np.ndarray) -> str | None:
    return None if label < 0 else space.names[int(label)]


def _floats(values: np.ndarray) -> list[float]:
    """As Python numbers that are as short as read back the same float32."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _all_known(values: np.ndarray) -> list[Any]:
    """Nested lists, None where nothing is known."""
    return [_all_known(row) if row.ndim else _known(float(row)) for row in values]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else cell(value)


_ROWS: dict[str, Callable[..., dict[str, Any]]] = {
    "sequence": _sequence,
    "token": _token,
    "structure": _structure,
    "contact": _contact,
}
