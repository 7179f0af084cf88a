"""Predictions of task heads as text: dot-bracket, bpseq and ct for structures, TSV and JSON lines for everything.

Positions count from 1 in all of them, where Parquet and the model count from 0. A line of JSON holds `id`, `sequence`
and `predictions`, by the names of the heads. Legend: C labels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from model.head_config import HeadConfig
from model.predictions import ContactPrediction, Prediction, SequencePrediction, TokenPrediction
from raypipe.errors import UsageError
from raypipe.text_forms import Form, Row, cell, json_form, plain, table_form

PredictionFormat = Literal["dbn", "bpseq", "ct", "tsv", "jsonl"]
Results = Mapping[str, Prediction]

# What one row of a table is about, by the kind of head.
_ROWS = {"record": "one row per sequence", "nucleotide": "one row per nucleotide", "pair": "one row per pair"}


def prediction_form(heads: Mapping[str, HeadConfig], format: PredictionFormat | None, header: bool = True) -> Form:
    """The form of the predictions of `heads`: its results are dictionaries from the heads' names to predictions.

    Args:
        heads: name -> configuration, in the order of the columns.
        format: None: dbn for one head that gives structures, else tsv.
        header: whether TSV begins with the column names.

    Raises:
        UsageError: the heads do not fit the format; the message names those that fit.
    """
    fitting = _fitting(heads)
    if format is None:
        format = "dbn" if "dbn" in fitting else "tsv"
    if format not in fitting:
        raise UsageError(f"--format {format}: {_misfit(heads, format)}; these fit: {', '.join(fitting)}")
    if format == "jsonl":
        return json_form(lambda results: {"predictions": {name: _object(results[name]) for name in heads}})
    if format == "tsv":
        return _table(heads, header)
    return Form("", lambda id_, sequence, results: _block(format, id_, next(iter(results.values()))))


def row_kind(config: HeadConfig) -> str:
    """What a row of this head's table is about: "record", "nucleotide" or "pair"."""
    if config.kind == "token":
        return "nucleotide"
    return "record" if config.kind == "sequence" or gives_structure(config) else "pair"


def gives_structure(config: HeadConfig) -> bool:
    """Whether a structure is decoded from what the head says."""
    return config.kind == "structure" or (config.kind == "contact" and config.problem == "binary")


def _fitting(heads: Mapping[str, HeadConfig]) -> list[PredictionFormat]:
    kinds = {row_kind(config) for config in heads.values()}
    # Pairs of two heads are not the same pairs.
    table = len(kinds) == 1 and (kinds != {"pair"} or len(heads) == 1)
    structure = len(heads) == 1 and all(map(gives_structure, heads.values()))
    return [
        name
        for name in get_args(PredictionFormat)
        if name == "jsonl" or (name == "tsv" and table) or (name not in ("tsv", "jsonl") and structure)
    ]


def _misfit(heads: Mapping[str, HeadConfig], format: str) -> str:
    if format != "tsv":
        without = [name for name, config in heads.items() if not gives_structure(config)]
        return f"{without[0]} gives no structure" if without else "holds the structures of one head, not of several"
    shapes = [f"{name} gives {_ROWS[row_kind(config)]}" for name, config in heads.items()]
    return f"{', '.join(shapes)}, which are not one table"


def _block(format: str, id_: str, prediction: Prediction) -> str:
    assert isinstance(prediction, ContactPrediction)
    structure = prediction.structure
    assert structure is not None
    if format == "bpseq":
        return structure.bpseq(id_)
    if format == "ct":
        return structure.ct(id_)
    return f">{' '.join(id_.split())}\n{structure.sequence}\n{structure.dot_bracket}\n"


def _table(heads: Mapping[str, HeadConfig], header: bool) -> Form:
    kind = row_kind(next(iter(heads.values())))
    prefixed = len(heads) > 1
    named = [
        f"{name}_{column}" if prefixed else column for name, config in heads.items() for column in _columns(config)
    ]

    def rows(id_: str, sequence: str, results: Results) -> Iterator[Row]:
        if kind == "record":
            yield [id_, len(sequence), *(cell for name in heads for cell in _cells(results[name]))]
        elif kind == "pair":
            for pair in _pairs(next(iter(results.values()))):
                yield [id_, *pair]
        else:
            columns = [_nucleotides(results[name]) for name in heads]
            for position, (letter, *cells) in enumerate(zip(sequence, *columns, strict=True), 1):
                yield [id_, position, letter, *(cell for part in cells for cell in part)]

    first = {"record": ["id", "length"], "nucleotide": ["id", "position", "letter"], "pair": ["id"]}[kind]
    return table_form([*first, *named], rows, header)


def _columns(config: HeadConfig) -> list[str]:
    """Columns of one head, without those that say what the row is about."""
    kind, problem, names = config.kind, config.problem, config.label_names
    if row_kind(config) == "pair":
        return ["i", "j", "score", *(["label"] if len(names) > 1 else [])]
    if gives_structure(config):
        return ["dot_bracket", "pairs"]
    if problem == "regression":
        return ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
    if problem == "multiclass":
        return ["label", "probability"]
    if problem == "binary":
        return ["positive", "probability"] if kind == "sequence" else ["probability"]
    return ["labels", "probabilities"] if kind == "sequence" else [f"probability_{name}" for name in names]


def _cells(prediction: Prediction) -> Row:
    """One cell for each of `_columns`, of a whole sequence."""
    if isinstance(prediction, ContactPrediction):
        assert prediction.structure is not None
        return [prediction.structure.dot_bracket, len(prediction.structure.pairs)]
    assert isinstance(prediction, SequencePrediction)
    values = prediction.values
    if prediction.problem == "multiclass":
        return [prediction.label, values.max()]
    if prediction.problem == "binary":
        return [prediction.positive, values[0]]
    if prediction.problem == "multilabel":
        said = prediction.labels or ()
        shown = [cell(value) for name, value in zip(prediction.label_names, values, strict=True) if name in said]
        return [",".join(said), ",".join(shown)]
    return list(values)


def _nucleotides(prediction: Prediction) -> Iterator[Row]:
    """The cells of every nucleotide."""
    assert isinstance(prediction, TokenPrediction)
    if prediction.labels is not None:
        yield from zip(prediction.labels, prediction.values.max(-1), strict=True)
    else:
        yield from prediction.values


def _pairs(prediction: Prediction) -> Iterator[Row]:
    """i and j from 1, score, and the label's name where a pair can have several."""
    assert isinstance(prediction, ContactPrediction)
    places = zip((prediction.i + 1).tolist(), (prediction.j + 1).tolist(), prediction.score, strict=True)
    if prediction.label is None:
        yield from places
        return
    for place, label in zip(places, prediction.label.tolist(), strict=True):
        yield (*place, prediction.label_names[label])


def _object(prediction: Prediction) -> dict[str, Any]:
    """A prediction in JSON; `labels` or `outputs` name the C columns of what stands after them."""
    if isinstance(prediction, ContactPrediction):
        structure = {} if prediction.structure is None else {"dot_bracket": prediction.structure.dot_bracket}
        pairs = _pairs(prediction)
        return {**structure, "contacts": [[i, j, plain(score), *label] for i, j, score, *label in pairs]}
    names, values, problem = list(prediction.label_names), prediction.values, prediction.problem
    if problem == "regression":
        one = len(names) == 1
        if isinstance(prediction, SequencePrediction) and one:
            return {"value": plain(values[0])}
        return {"values": plain(values[:, 0])} if one else {"outputs": names, "values": plain(values)}
    if isinstance(prediction, TokenPrediction):
        if problem == "binary":
            return {"probabilities": plain(values[:, 0])}
        said = {} if prediction.labels is None else {"labels": prediction.labels}
        return {**said, "classes": names, "probabilities": plain(values)}
    if problem == "binary":
        return {"positive": prediction.positive, "probability": plain(values[0])}
    said = {"label": prediction.label} if problem == "multiclass" else {"labels": list(prediction.labels or ())}
    return {**said, "classes": names, "probabilities": plain(values)}
