"""What the masked LM says of a sequence, as TSV and JSON lines. Positions count from 1, logarithms are natural."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from model.scoring import PseudoLikelihood, VariantEffects
from raypipe.settings import Scores
from raypipe.text_forms import Form, Row, json_form, plain, table_form

MlmFormat = Literal["tsv", "jsonl"]
VARIANT_COLUMNS = ("id", "position", "ref", "alt", "variant", "score", "log_p_ref", "log_p_alt")


def mlm_form(what: Scores, format: MlmFormat, tokens: Sequence[str], header: bool = True) -> Form:
    """The form of one kind of scores: its results are dictionaries that hold them under the kind's name.

    Args:
        tokens: the vocabulary, for logits.
        header: whether TSV begins with the column names.
    """
    forms = {
        "pll": lambda: likelihood_form(format, header),
        "variants": lambda: variants_form(format, header),
        "logits": lambda: logits_form(format, tokens, header),
    }
    form = forms[what]()
    return Form(form.header, lambda id_, sequence, results: form.text(id_, sequence, results[what]))


def likelihood_form(format: MlmFormat, header: bool = True) -> Form:
    """One row or object per sequence; results are `PseudoLikelihood`."""
    if format == "tsv":
        columns = ["id", "length", "scored", "pll", "pseudo_perplexity"]
        return table_form(columns, lambda id_, sequence, result: [[id_, len(sequence), *_likelihood(result)]], header)
    return json_form(
        lambda result: dict(zip(("scored", "pll", "pseudo_perplexity"), _finite(_likelihood(result)), strict=True))
    )


def variants_form(format: MlmFormat, header: bool = True) -> Form:
    """One row per substitution, or one object per sequence with a list of them; results are `VariantEffects`."""
    if format == "tsv":
        return table_form(VARIANT_COLUMNS, lambda id_, _, result: ([id_, *row] for row in _variants(result)), header)
    names = VARIANT_COLUMNS[1:]
    return json_form(
        lambda result: {
            "method": result.method,
            "variants": [dict(zip(names, _finite(row), strict=True)) for row in _variants(result)],
        }
    )


def logits_form(format: MlmFormat, tokens: Sequence[str], header: bool = True) -> Form:
    """One row per nucleotide, or one object per sequence with a list of them, and one number per token.

    Args:
        tokens: the vocabulary; results are (L, V) arrays over it, of L nucleotides.
    """
    if format == "tsv":

        def rows(id_: str, sequence: str, logits: np.ndarray) -> Iterator[Row]:
            for position, (letter, values) in enumerate(zip(sequence, logits, strict=True), 1):
                yield [id_, position, letter, *values]

        return table_form(["id", "position", "letter", *tokens], rows, header)
    return json_form(lambda logits: {"tokens": list(tokens), "logits": plain(logits)})


def _likelihood(result: PseudoLikelihood) -> Row:
    return [result.scored, result.pll, result.perplexity]


def _variants(effects: VariantEffects) -> Iterator[Row]:
    """The columns after the id."""
    for row in effects.rows():
        scores = (row["score"], row["log_p_ref"], row["log_p_alt"])
        yield [row["position"], row["ref"], row["alt"], row["notation"], *scores]


def _finite(row: Row) -> list[Any]:
    """Numbers for JSON, with six decimals as in the table; null where not finite."""
    return [(round(value, 6) if np.isfinite(value) else None) if isinstance(value, float) else value for value in row]
