"""Bodies of requests: what may stand in them, and how they are read.

Shapes: Q queries, D values of a vector as the model gives it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from starlette.requests import ClientDisconnect, Request

from raypipe.errors import first_line
from raypipe.serve.faults import Refusal

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
SETTINGS = b"raypipe"
EXAMPLE = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCC"
Body = TypeVar("Body", bound="Strict")


def _plain(text: Any) -> Any:
    """Refuse a NUL, which neither SQL nor an id holds; halves of surrogates are refused as no JSON."""
    if isinstance(text, str) and "\0" in text:
        raise ValueError("holds a NUL character")
    return text


Text = Annotated[str, BeforeValidator(_plain)]
# Of a name or an id: it stands in every hit.
LONGEST_NAME = 1000
Name = Annotated[str, Field(max_length=LONGEST_NAME), BeforeValidator(_plain)]
Ids = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), BeforeValidator(_plain)]],
    Field(min_length=1, description="Ids of records in the atlas.", examples=[["URS0000000001"]]),
]


class Strict(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(Strict):
    """A search, by exactly one of sequences, ids and vectors."""

    sequences: Text | list[Text] | dict[Name, Text] | None = Field(
        default=None,
        description="One sequence, a list, or an object from names to sequences; T or U, either case.",
        examples=[[EXAMPLE]],
    )
    ids: Ids | None = Field(default=None, description="Ids of records in the atlas, by their stored vectors.")
    vectors: list[list[float]] | None = Field(
        default=None, description="Vectors of the atlas's own model, as /v1/embed gives them. Better sent as Arrow."
    )
    names: list[Name] | None = Field(default=None, description="What to call the queries in the answer.")
    k: int = Field(default=10, ge=1, le=2**31 - 1, description="Hits of each query.", examples=[10])
    where: Text | None = Field(
        default=None, description="SQL condition that hits must meet, e.g. rna_type = 'tRNA'.", examples=[None]
    )
    columns: list[Text] | None = Field(
        default=None, description="Columns of the answer, in order; by default all.", examples=[None]
    )
    min_score: float | None = Field(default=None, description="Hits that score less are left out.", examples=[None])
    exact: bool = Field(default=False, description="Compare with every stored vector.", examples=[False])
    recall: float | None = Field(
        default=None, gt=0, le=1, description="Recall@10 to search for; by default the index's.", examples=[None]
    )
    partial: bool = Field(
        default=False, description="Of a sharded atlas: answer without shards that died.", examples=[False]
    )

    itself: bool = Field(default=True, description="Whether a query by id may find itself.", examples=[True])
    all_annotations: bool = Field(
        default=False, description="Annotation columns as lists of all rows of a sequence.", examples=[False]
    )
    expand_records: bool = Field(
        default=False, description="A row for each record of a hit, not for each sequence.", examples=[False]
    )

    @model_validator(mode="after")
    def _one_kind(self) -> SearchRequest:
        if sum(kind is not None for kind in (self.sequences, self.ids, self.vectors)) != 1:
            raise ValueError("give exactly one of sequences, ids and vectors")
        if not self.itself and self.ids is None:
            raise ValueError("itself is for queries by ids")
        return self


class SearchSettings(Strict):
    """What stands beside vectors that are sent as Arrow."""

    names: list[Name] | None = None
    k: int = Field(default=10, ge=1, le=2**31 - 1)
    where: Text | None = None
    columns: list[Text] | None = None
    min_score: float | None = None
    exact: bool = False
    recall: float | None = Field(default=None, gt=0, le=1)
    partial: bool = False
    itself: Literal[True] = True
    all_annotations: bool = False
    expand_records: bool = False


class SequencesRequest(Strict):
    """Sequences."""

    sequences: Text | list[Text] | dict[Name, Text] = Field(
        description="One sequence, a list, or an object from names to sequences; T or U, either case.",
        examples=[[EXAMPLE]],
    )

    @property
    def listed(self) -> list[str]:
        """The sequences without their names."""
        return texts_of(self.sequences)


class FillMaskRequest(SequencesRequest):
    """Sequences with <mask> where a nucleotide is to be guessed."""

    sequences: Text | list[Text] | dict[Name, Text] = Field(
        description="One sequence, a list, or an object from names to sequences, with <mask> in each.",
        examples=[["GCGGAUUUAGCUCAGUU<mask>GGAGAGC"]],
    )
    top_k: int = Field(default=5, ge=1, le=26, description="Answers for each mask.", examples=[5])


class PredictRequest(SequencesRequest):
    """Sequences and heads."""

    heads: list[Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(_plain)]] = Field(
        min_length=1, max_length=20, description="Heads of the atlas's model.", examples=[["structure"]]
    )


class IdsRequest(Strict):
    """Records."""

    ids: Ids


class VectorsRequest(Strict):
    """Records, or sequences: one of the two."""

    ids: Ids | None = Field(default=None, description="Ids of records in the atlas.", examples=[["URS0000000001"]])
    seq_ids: list[Annotated[int, Field(ge=-(2**63), lt=2**63)]] | None = Field(
        default=None, min_length=1, description="Numbers of sequences, instead of ids.", examples=[None]
    )

    @model_validator(mode="after")
    def _one_kind(self) -> VectorsRequest:
        if (self.ids is None) == (self.seq_ids is None):
            raise ValueError("give exactly one of ids and seq_ids")
        return self


class SqlRequest(Strict):
    """One reading statement."""

    query: Text = Field(
        description="One SELECT over the atlas's tables.", examples=["SELECT count(*) AS n FROM records"]
    )
    params: list[JsonValue] | dict[Text, JsonValue] | None = Field(
        default=None, description="For ? or $name.", examples=[None]
    )


def texts_of(sequences: str | list[str] | dict[str, str]) -> list[str]:
    """The sequences, however they were given."""
    if isinstance(sequences, dict):
        return list(sequences.values())
    return [sequences] if isinstance(sequences, str) else sequences


@dataclass(frozen=True)
class Vectors:
    """Queries that came as Arrow.

    Attributes:
        vectors: (Q, D) float32.
        asked: the other settings.
    """

    vectors: np.ndarray
    asked: SearchSettings


async def read_body(request: Request, most: int) -> bytes:
    """The body of `request`.

    Raises:
        Refusal: it has more than `most` bytes, or the client is gone.
    """
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise Refusal("too_large", f"the body has more than {most:,} bytes", "send it in parts")
            chunks.append(chunk)
    except ClientDisconnect:
        raise Refusal("usage", "the client went away before its request was whole") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def content_type(request: Request, *allowed: Literal["application/json", "application/vnd.apache.arrow.stream"]) -> str:
    """The type of the body, which has to be named: a form of some web page could send anything else unasked.

    Raises:
        Refusal: another one.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in allowed:
        raise Refusal("usage", f"Content-Type {given!r}: send {' or '.join(allowed)}", status=415)
    return given


def parse(body: bytes, kind: type[Body]) -> Body:
    """A JSON body.

    Raises:
        pydantic.ValidationError: it is none, or not of this kind.
    """
    return kind.model_validate_json(body)


def parse_vectors(body: bytes, most: int) -> Vectors:
    """Vectors sent as an Arrow stream: a column `vector` of equally long lists of numbers, and perhaps `query`, names.

    Raises:
        Refusal: no such stream, a compressed one, or more than `most` rows.
    """
    try:
        _check_plain(body)
        with pa.ipc.open_stream(body) as reader:
            batches, rows = [], 0
            for batch in reader:
                rows += batch.num_rows
                if rows > most:
                    raise Refusal("too_large", f"more than {most:,} queries", "send them in parts")
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise Refusal("usage", f"the body is no Arrow stream ({first_line(error)[:100]})") from error
    if table.column_names.count("vector") != 1:
        raise Refusal("usage", "the Arrow stream has no column called vector")
    column = table["vector"].combine_chunks()
    type_ = column.type
    if not pa.types.is_fixed_size_list(type_) or not pa.types.is_floating(type_.value_type) or column.null_count:
        raise Refusal("usage", f"vector is {type_}; send a FixedSizeList of float, without nulls")
    flat = column.flatten()
    if flat.null_count:
        raise Refusal("usage", "vector: holds nulls")
    vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(column), type_.list_size)
    settings = (table.schema.metadata or {}).get(SETTINGS, b"{}")
    asked = SearchSettings.model_validate_json(settings)
    if asked.names is None and "query" in table.column_names:
        asked = asked.model_copy(update={"names": _names(table["query"])})
    return Vectors(vectors, asked)


def _names(column: pa.ChunkedArray) -> list[str]:
    # Texts of other types may share their letters, and be many times as large as the body when they are read.
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise Refusal("usage", f"query is {column.type}; send names as string, without nulls")
    names = column.to_pylist()
    if max(map(len, names), default=0) > LONGEST_NAME:
        raise Refusal("invalid", f"query: a name of more than {LONGEST_NAME:,} characters")
    return names


def _check_plain(body: bytes) -> None:
    """Look whether an Arrow stream is as large as it looks: compressed it could be a thousand times larger when read.

    Raises:
        Refusal: it is compressed, or has dictionaries.
        pyarrow.ArrowException, OSError, ValueError, struct.error: it is no stream.
    """
    messages = pa.ipc.MessageReader.open_stream(body)
    with suppress(StopIteration):
        while True:
            message = messages.read_next_message()
            if message.type == "dictionary":
                raise Refusal("usage", "the Arrow stream has dictionaries; send plain columns")
            if message.type == "record batch" and _compressed(message.metadata.to_pybytes()):
                raise Refusal("usage", "the Arrow stream is compressed; send it as it is")


def _compressed(message: bytes) -> bool:
    """Whether a record batch says so: FlatBuffers of `Message.header`, its third field, and there of the fourth one."""
    header = _field(message, *struct.unpack_from("<I", message, 0), 2)
    return header is not None and _field(message, header + struct.unpack_from("<I", message, header)[0], 3) is not None


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Where a field of a table stands in a FlatBuffer; None where it has its default."""
    fields = table - struct.unpack_from("<i", buffer, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", buffer, fields)[0]:
        return None
    (shift,) = struct.unpack_from("<H", buffer, fields + place)
    return table + shift if shift else None
