"""What queries ask of an atlas's own model beside their vectors: masked nucleotides, predictions of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from index.sets import Embedding
from raypipe.answering import Answerer
from raypipe.checkpoints import find_heads
from raypipe.encoders import find_encoder, refuse_long
from raypipe.errors import AtlasError, RaypipeError, UsageError
from raypipe.outputs import Ask
from raypipe.prediction_tables import prediction_table
from raypipe.predictions import describe_heads
from raypipe.queries import MASK, Queries, check_top_k, clean_queries
from raypipe.settings import PredictSettings

if TYPE_CHECKING:
    from model import Model

FILLED = pa.schema(
    [
        pa.field("query", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("token", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("sequence", pa.string()),
    ]
)


class Heads:
    """A loaded model and what its heads were asked before; to be asked from one thread at a time.

    Args:
        model: that made the vectors of `embedding`, whose policy for long sequences holds for queries too.
        asked: what the user calls the model, where that is not what the atlas calls it.
    """

    def __init__(self, model: Model, embedding: Embedding, asked: str | None = None):
        self.model = model
        self.embedding = embedding
        self._asked = asked
        self._answerers: dict[tuple[str, ...], Answerer] = {}

    def fill_mask(self, sequences: Queries, top_k: int) -> pa.Table:
        """See `raypipe.atlas.Atlas.fill_mask`."""
        check_top_k(top_k)
        names, cleaned = clean_queries(sequences, masks=True)
        context = self.model.config.context
        rows = []
        for name, text in zip(names, cleaned, strict=True):
            length = len(text) - text.count(MASK) * (len(MASK) - 1)
            if length > context:
                raise UsageError(f"{name}: {length} nt; masks are filled in up to {context}: give the part around them")
        for name, text, answer in zip(names, cleaned, self.model.fill_mask(cleaned, top_k=top_k), strict=True):
            parts = text.split(MASK)
            masks = answer if isinstance(answer[0], list) else [answer]
            position = 0
            for number, candidates in enumerate(masks, 1):
                position += len(parts[number - 1]) + 1
                before, after = MASK.join(parts[:number]), MASK.join(parts[number:])
                rows += [
                    (name, position, found["token_str"], found["score"], f"{before}{found['token_str']}{after}")
                    for found in candidates
                ]
        columns = list(zip(*rows, strict=True))
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, FILLED, strict=True)], FILLED)

    def predict(self, sequences: Queries, heads: Sequence[str]) -> dict[str, pa.Table]:
        """See `raypipe.atlas.Atlas.predict`."""
        listed = [heads] if isinstance(heads, str) else list(heads)
        if not listed:
            raise UsageError("no head; give names, such as heads=['structure']")
        names, cleaned = clean_queries(sequences)
        refuse_long(self.model, self.embedding, cleaned)
        answerer = self._answerer(tuple(listed))
        answers = answerer(cleaned)
        for name, (_, reason) in zip(names, answers, strict=True):
            if reason is not None:
                raise UsageError(f"{name}: {reason}")
        numbers = np.arange(len(cleaned), dtype=np.int64)
        tables = {}
        for made in answerer.sets:
            table = prediction_table(made, numbers, [rows[made.name] for rows, _ in answers])
            tables[made.name] = table.drop_columns(["seq_id"]).add_column(0, "query", pa.array(names, pa.string()))
        return tables

    def _answerer(self, heads: tuple[str, ...]) -> Answerer:
        found = self._answerers.get(heads)
        if found is None:
            checkpoint = find_encoder(self.embedding, self._asked)
            settings = PredictSettings(model=checkpoint.asked, on_long=self.embedding.on_long, heads=list(heads))
            try:
                files = find_heads(checkpoint, heads)
            except RaypipeError as error:
                raise AtlasError(str(error), code="invalid") from error
            sets = describe_heads(settings, checkpoint, files)
            ask = Ask(self.embedding.on_long)
            found = self._answerers[heads] = Answerer(checkpoint, sets, ask, device=None, dtype=None, model=self.model)
        return found
