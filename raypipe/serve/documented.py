"""What OpenAPI says beside the routes: answers, bodies in two forms, errors, tokens."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from raypipe import __version__
from raypipe.serve import requests
from raypipe.serve.faults import STATUS, Fault
from raypipe.serve.requests import ARROW, JSON

TITLE = "raypipe"
ABOUT = """Search and query an atlas of non-coding RNA.

Every answer carries `X-Request-Id`, which may be given with the request. Errors are `{code, message, hint,
request_id}`; 429 and 503 say in `Retry-After` when to ask again. Where the server was started with tokens, `/v1` and
`/metrics` ask for `Authorization: Bearer TOKEN`. With `Accept: application/vnd.apache.arrow.stream` answers are one
table as an Arrow IPC stream, and what stands beside it is JSON in the schema's metadata under `raypipe`."""
Row = dict[str, Any]
BODIES = (
    requests.SearchRequest,
    requests.SequencesRequest,
    requests.FillMaskRequest,
    requests.PredictRequest,
    requests.IdsRequest,
    requests.VectorsRequest,
    requests.SqlRequest,
)


class SearchAnswer(BaseModel):
    """Hits by query and rank."""

    hits: list[Row] = Field(
        description="query, rank, id, score, length, description, and annotation columns.",
        examples=[[{"query": "query_1", "rank": 1, "id": "URS0000000001", "score": 0.93, "length": 77}]],
    )
    how: Row = Field(description="How it was searched.", examples=[{"version": "000001", "type": "flat"}])


class VectorsAnswer(BaseModel):
    """Vectors in the order asked for."""

    embeddings: list[list[float]] = Field(description="One vector of `dimension` numbers each.")
    model: str = Field(description="What made them.", examples=["nano"])
    dimension: int = Field(examples=[512])


class RowsAnswer(BaseModel):
    """Rows."""

    rows: list[Row] = Field(description="query, position, token, probability, sequence.")


class HeadsAnswer(BaseModel):
    """Predictions."""

    heads: dict[str, list[Row]] = Field(description="By head one row for each sequence.")


class RecordsAnswer(BaseModel):
    """Records with their sequences, in the order asked for."""

    records: list[Row] = Field(description="id, description, length, sequence, md5, source, seq_id.")


class SqlColumn(BaseModel):
    """A column of an answer."""

    name: str
    type: str = Field(description="As Arrow calls it.", examples=["int64"])


class SqlAnswer(BaseModel):
    """Rows of a query."""

    columns: list[SqlColumn]
    rows: list[list[Any]]
    truncated: bool = Field(description="Whether there were more rows than the server gives.")


class Ready(BaseModel):
    """Whether questions are answered."""

    status: str = Field(examples=["ok"])


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status = STATUS[code]
        words = f"{found[status]['description']}, {code}" if status in found else code
        headers = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        found[status] = {
            "model": Fault,
            "description": words,
            **({"headers": headers} if code in ("busy", "unavailable") else {}),
        }
    return found


ASKING = ("usage", "unauthorized", "too_large", "invalid", "busy", "internal", "unavailable", "timeout")
MEDIA: dict[int | str, dict[str, Any]] = {
    415: {"model": Fault, "description": "usage: a Content-Type that is not taken"},
}


def answer(model: type[BaseModel], *codes: str, arrow: bool = True) -> dict[int | str, dict[str, Any]]:
    """All answers of a route: a good one of `model`, also as Arrow, and errors."""
    stream = {ARROW: {"schema": {"type": "string", "format": "binary"}}}
    good: dict[str, Any] = {"model": model, "description": str(model.__doc__).strip()}
    return {200: {**good, **({"content": stream} if arrow else {})}, **errors(*codes)}


def body(model: type[BaseModel], *, arrow: str | None = None) -> dict[str, Any]:
    """The body of a route, for OpenAPI: as JSON, and as Arrow where `arrow` says what stands in it."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    if arrow is not None:
        content[ARROW] = {"schema": {"type": "string", "format": "binary", "description": arrow}}
    return {"requestBody": {"required": True, "content": content}}


class Documented(FastAPI):
    """The application with all of it in its OpenAPI."""

    @cached_property
    def _described(self) -> dict[str, Any]:
        made = get_openapi(title=TITLE, version=__version__, description=ABOUT, routes=self.routes)
        _, schemas = models_json_schema(
            [(model, "validation") for model in BODIES], ref_template="#/components/schemas/{model}"
        )
        components = made.setdefault("components", {})
        components.setdefault("schemas", {}).update(schemas["$defs"])
        components["schemas"] = dict(sorted(components["schemas"].items()))
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "Where the server has tokens."}
        }
        for path, operations in made["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/") or path == "/metrics":
                    operation["security"] = [{"token": []}, {}]
        return made

    def openapi(self) -> dict[str, Any]:
        """The whole description."""
        return self._described
