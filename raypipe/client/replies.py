"""What a server answers, read: tables, vectors, values, and errors in its own words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import AtlasError, AtlasUsageError

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
METADATA = b"raypipe"
# Of answers that are not raypipe's own, as those of a proxy before it.
CODES = {401: "unauthorized", 403: "unauthorized", 413: "too_large", 429: "busy", 503: "unavailable", 504: "timeout"}


@dataclass(frozen=True)
class Reply:
    """A whole answer of HTTP.

    Attributes:
        headers: their names in small letters.
        url: that was asked.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str

    @property
    def ok(self) -> bool:
        """Whether it is an answer, not an error."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The JSON in it.

        Raises:
            AtlasError: there is none.
        """
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise self._foreign() from error

    def table(self) -> tuple[pa.Table, dict[str, Any]]:
        """The Arrow table in it, and what stands beside it.

        Raises:
            AtlasError: there is none.
        """
        if not self.headers.get("content-type", "").startswith(ARROW):
            raise self._foreign()
        try:
            with pa.ipc.open_stream(self.content) as stream:
                table = stream.read_all()
            beside = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._foreign() from error
        return table.replace_schema_metadata(None), beside

    def vectors(self) -> np.ndarray:
        """(N, D) float32.

        Raises:
            AtlasError: there are none.
        """
        column = self.table()[0]["embedding"]
        flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks]) if column.num_chunks else pa.array([])
        return flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), column.type.list_size)

    def error(self) -> AtlasError:
        """The error that it is, in the server's words."""
        try:
            body = json.loads(self.content)
            message, code = str(body["message"]), str(body["code"])
        except (ValueError, KeyError, TypeError):
            return self._foreign()
        kind = AtlasUsageError if code == "usage" else AtlasError
        asked = body.get("request_id") or self.headers.get("x-request-id")
        return kind(message, code=code, hint=body.get("hint") or None, request_id=asked, status=self.status)

    def _foreign(self) -> AtlasError:
        return AtlasError(
            f"{self.url}: an answer that is not raypipe's (HTTP {self.status}); does `raypipe serve` answer there?",
            code=CODES.get(self.status, "unreachable"),
            request_id=self.headers.get("x-request-id"),
            status=self.status,
        )
