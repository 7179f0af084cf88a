"""The routes of /v1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from index.fence_limits import FencedResult
from raypipe import __version__
from raypipe.atlas import Atlas
from raypipe.queries import clean_queries
from raypipe.results import stacked
from raypipe.serve import documented as docs
from raypipe.serve.answers import columns_of, rows_of, send_arrow, send_json, vector_table, wants_arrow
from raypipe.serve.faults import Refusal, hidden
from raypipe.serve.hits import Asked, Part
from raypipe.serve.live import Snapshot
from raypipe.serve.requests import (
    ARROW,
    JSON,
    Body,
    FillMaskRequest,
    IdsRequest,
    PredictRequest,
    SearchRequest,
    SearchSettings,
    SequencesRequest,
    SqlRequest,
    VectorsRequest,
    content_type,
    parse,
    parse_vectors,
    read_body,
)
from raypipe.serve.service import Service, unless_gone
from raypipe.serve.settings import ServeSettings

ARROW_SEARCH = (
    "A column vector, FixedSizeList<float>[D], and perhaps query, names; the other settings of SearchRequest as JSON "
    "in the schema's metadata under raypipe. Not compressed."
)


# Of an answer that is put together at once; those of more rows are by a thread.
ROWS_AT_ONCE = 1000


def routes(settings: ServeSettings, service: Service) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1")
    most = int(settings.max_body_mib * 2**20)

    def reading() -> AbstractContextManager[Snapshot]:
        return service.live.reading()

    async def built(rows: int, make: Callable[[], Response]) -> Response:
        """An answer, in a thread where it is large: nobody else shall wait for it."""
        return make() if rows <= ROWS_AT_ONCE else await service.look_up(make)

    async def read(request: Request, kind: type[Body]) -> Body:
        content_type(request, JSON)
        return parse(await read_body(request, most), kind)

    @router.post(
        "/search",
        summary="Nearest sequences",
        description="The k nearest distinct sequences of each query, with their annotations.",
        responses={**docs.answer(docs.SearchAnswer, *docs.ASKING, "not_found", "no_index", "stale"), **docs.MEDIA},
        openapi_extra=docs.body(SearchRequest, arrow=ARROW_SEARCH),
    )
    async def search(request: Request) -> Response:
        form = content_type(request, JSON, ARROW)
        received = await read_body(request, most)
        body: SearchRequest | SearchSettings
        vectors: np.ndarray | None = None
        if form == ARROW:
            sent = parse_vectors(received, settings.max_queries)
            body, vectors = sent.asked, sent.vectors
        else:
            body = parse(received, SearchRequest)
            if body.vectors is not None:
                vectors = _matrix(body.vectors)
        asked = _asked(body)
        with reading() as snapshot:
            if vectors is not None:
                _note(request, vectors=len(vectors), k=asked.k)
                service.count("vector", len(vectors))
                parts = await service.search_vectors(snapshot, asked, vectors, body.names)
            elif isinstance(body, SearchRequest) and body.ids is not None:
                _note(request, ids=len(body.ids), k=asked.k)
                service.count("id", len(body.ids))
                parts = await service.search_ids(snapshot, asked, body.ids, body.names)
            else:
                assert isinstance(body, SearchRequest)
                number = 1 if isinstance(body.sequences, str) else len(body.sequences or ())
                _note(request, sequences=number, k=asked.k, quoted=body.sequences)
                service.count("sequence", number)
                searched = service.search_sequences(snapshot, asked, body.sequences, body.names)
                parts = await unless_gone(request, searched)
            return await built(sum(part.stop - part.start for part in parts), lambda: _hits(request, parts))

    @router.post(
        "/embed",
        summary="Embed sequences",
        description="A vector for each sequence, made as those of the atlas were.",
        responses={**docs.answer(docs.VectorsAnswer, *docs.ASKING), **docs.MEDIA},
        openapi_extra=docs.body(SequencesRequest),
    )
    async def embed(request: Request) -> Response:
        body = await read(request, SequencesRequest)
        service.check_sequences(body.listed)
        _note(request, sequences=len(body.listed), quoted=body.sequences)
        service.count("sequence", len(body.listed))
        cleaned = clean_queries(body.sequences)[1]
        with reading() as snapshot:
            vectors = await unless_gone(request, service.embed(snapshot, cleaned))
            model = _named(snapshot.atlas.embedding.model)
        return await built(vectors.size // 100, lambda: _vectors(request, vectors, model))

    @router.post(
        "/vectors",
        summary="Stored vectors",
        description="The stored vector of each record, or of each sequence by its number.",
        responses={**docs.answer(docs.VectorsAnswer, *docs.ASKING, "not_found", "no_index", "stale"), **docs.MEDIA},
        openapi_extra=docs.body(VectorsRequest),
    )
    async def vectors(request: Request) -> Response:
        body = await read(request, VectorsRequest)
        number = len(body.ids or body.seq_ids or ())
        service.check_number(number)
        _note(request, ids=number)
        with reading() as snapshot:
            snapshot.searchable()
            found = await service.look_up(partial(snapshot.atlas.vectors, body.ids, seq_ids=body.seq_ids))
            model = _named(snapshot.atlas.indexed.model)
        return await built(found.size // 100, lambda: _vectors(request, found, model))

    @router.post(
        "/fill-mask",
        summary="Guess masked nucleotides",
        description="The likeliest tokens for every <mask>.",
        responses={**docs.answer(docs.RowsAnswer, *docs.ASKING), **docs.MEDIA},
        openapi_extra=docs.body(FillMaskRequest),
    )
    async def fill_mask(request: Request) -> Response:
        body = await read(request, FillMaskRequest)
        service.check_sequences(body.listed)
        service.check_filled(body.listed, body.top_k)
        _note(request, sequences=len(body.listed), quoted=body.sequences)
        names, cleaned = clean_queries(body.sequences, masks=True)
        with reading() as snapshot:
            filled = service.model(lambda them: Atlas.fill_mask(snapshot.atlas, them, body.top_k), names, cleaned)
            found = await unless_gone(request, filled)
            table = pa.concat_tables([one.to_arrow() for one in found])
        return await built(table.num_rows, lambda: _rows(request, "rows", table))

    @router.post(
        "/predict",
        summary="Predict",
        description="What heads of the atlas's model say of sequences. As Arrow with one head only.",
        responses={**docs.answer(docs.HeadsAnswer, *docs.ASKING, "not_found"), **docs.MEDIA},
        openapi_extra=docs.body(PredictRequest),
    )
    async def predict(request: Request) -> Response:
        body = await read(request, PredictRequest)
        service.check_sequences(body.listed)
        _note(request, sequences=len(body.listed), heads=body.heads, quoted=body.sequences)
        heads = list(dict.fromkeys(body.heads))
        for head in heads:  # in Python files may be named too, here they would be the server's
            if "/" in head or "\\" in head or head.endswith(".safetensors"):
                raise Refusal("usage", f"head {head!r}: name a head of the atlas's model, not a file")
        if wants_arrow(request) and len(heads) > 1:
            raise Refusal("usage", "several heads have several tables; ask for one of them at a time, or for JSON")
        names, cleaned = clean_queries(body.sequences)
        with reading() as snapshot:
            asked = service.model(lambda them: snapshot.atlas.predict(them, heads), names, cleaned, pairs=True)
            found = await unless_gone(request, asked)
            tables = {head: pa.concat_tables([one[head].to_arrow() for one in found]) for head in heads}
        if wants_arrow(request):
            return send_arrow(tables[heads[0]], {})
        return await built(sum(map(len, cleaned)), lambda: _heads(tables))

    async def send_records(request: Request, ids: list[str]) -> Response:
        service.check_number(len(ids))
        _note(request, ids=len(ids))
        with reading() as snapshot:
            table = (await service.look_up(snapshot.atlas.get, ids)).to_arrow()
        return await built(table.num_rows, lambda: _rows(request, "records", table))

    @router.get(
        "/records/{id:path}",  # ids may have slashes, as those of Rfam do
        summary="One record",
        description="The records of an id, which may be several, with their sequences.",
        responses=docs.answer(docs.RecordsAnswer, *docs.ASKING, "not_found"),
    )
    async def record(
        request: Request, id: str = Path(description="Id of a record.", examples=["URS0000000001"])
    ) -> Response:
        return await send_records(request, [id])

    @router.post(
        "/records",
        summary="Records",
        description="The records of ids with their sequences, in the order asked for.",
        responses={**docs.answer(docs.RecordsAnswer, *docs.ASKING, "not_found"), **docs.MEDIA},
        openapi_extra=docs.body(IdsRequest),
    )
    async def records(request: Request) -> Response:
        return await send_records(request, (await read(request, IdsRequest)).ids)

    @router.post(
        "/sql",
        summary="SQL",
        description="One SELECT over the atlas's tables and its functions search(), neighbors() and embed(), in "
        "DuckDB; read-only, and limited in time, memory and rows.",
        responses={**docs.answer(docs.SqlAnswer, *docs.ASKING, "not_found", "no_index", "stale"), **docs.MEDIA},
        openapi_extra=docs.body(SqlRequest),
    )
    async def sql(request: Request) -> Response:
        body = await read(request, SqlRequest)
        _note(request, quoted=body.query)
        with reading() as snapshot:
            found = await service.sql(snapshot, body.query, body.params)
        return await built(found.table.nbytes // 100, lambda: _sql_rows(request, found))

    @router.get(
        "/info",
        summary="What is served",
        description="What the atlas holds, its index, annotations and models; and the limits of this server.",
        responses=errors_of_info(),
    )
    async def info(request: Request) -> Response:
        with reading() as snapshot:
            about = await service.look_up(lambda: snapshot.about)
        return send_json({**without_paths(about), "limits": limits(settings), "server": {"version": __version__}})

    return router


def errors_of_info() -> dict[int | str, dict[str, Any]]:
    """Answers of /v1/info, which is an object of its own."""
    good = {200: {"description": "An object.", "content": {JSON: {"schema": {"type": "object"}}}}}
    return {**good, **docs.errors("unauthorized", "busy", "internal", "unavailable", "timeout")}


def without_paths(about: Mapping[str, Any]) -> dict[str, Any]:
    """What `Atlas.info` says, without where things lie on this machine."""

    kept = {name: value for name, value in about.items() if name != "path"}
    kept["sources"] = [{**source, "path": _named(source["path"])} for source in about["sources"]]
    for sets in ("embeddings", "predictions"):
        kept[sets] = [
            {
                **made,
                "model": _named(made["model"]),
                "missing": [hidden(words, about["path"]) for words in made["missing"]],
            }
            for made in about[sets]
        ]
    return kept


def _named(path: str) -> str:
    """The last part of what is a path of this machine."""
    return path.rstrip("/").rpartition("/")[2] if path.startswith("/") else path


def limits(settings: ServeSettings) -> dict[str, Any]:
    """What a client has to keep to."""
    names = ("max_body_mib", "max_length", "max_nucleotides", "max_queries", "max_k", "max_hits", "max_rows")
    return {**{name: getattr(settings, name) for name in names}, "sql": settings.sql}


def _asked(body: SearchRequest | SearchSettings) -> Asked:
    columns = None if body.columns is None else tuple(body.columns)
    more = body.partial, body.itself, body.all_annotations, body.expand_records
    return Asked(body.k, body.where, columns, body.min_score, body.exact, body.recall, *more)


def _matrix(rows: list[list[float]]) -> np.ndarray:
    """(Q, D) float32.

    Raises:
        Refusal: rows of different lengths.
    """
    if len({len(row) for row in rows}) > 1:
        raise Refusal("invalid", "vectors of different lengths")
    with np.errstate(over="ignore"):  # infinite then, and refused as that
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(rows[0]) if rows else 0)


def _hits(request: Request, parts: Sequence[Part]) -> Response:
    how = parts[0].of.how
    if wants_arrow(request):
        return send_arrow(stacked([part.table() for part in parts]), {"how": how})
    return send_json({"hits": [row for part in parts for row in part.rows()], "how": how})


def _rows(request: Request, name: str, table: pa.Table) -> Response:
    return send_arrow(table, {}) if wants_arrow(request) else send_json({name: rows_of(table)})


def _heads(tables: Mapping[str, pa.Table]) -> Response:
    return send_json({"heads": {head: rows_of(table) for head, table in tables.items()}})


def _sql_rows(request: Request, found: FencedResult) -> Response:
    if wants_arrow(request):
        return send_arrow(found.table, {"truncated": found.truncated})
    columns = [{"name": field.name, "type": str(field.type)} for field in found.table.schema]
    rows = [list(row) for row in zip(*columns_of(found.table), strict=True)]
    return send_json({"columns": columns, "rows": rows, "truncated": found.truncated})


def _vectors(request: Request, vectors: np.ndarray, model: str) -> Response:
    beside: Mapping[str, Any] = {"model": model, "dimension": vectors.shape[1]}
    if wants_arrow(request):
        return vector_table(vectors, beside)
    return send_json({"embeddings": vectors.tolist(), **beside})


def _note(request: Request, *, quoted: Any = None, **fields: Any) -> None:
    """Let the log tell of `fields`; of what is quoted only where that is asked for."""
    noted = request.scope["raypipe"]
    noted.update(fields)
    if quoted is not None and request.app.state.log_sequences:
        noted["quoted"] = quoted
