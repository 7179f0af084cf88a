"""What OpenAPI promises: it is written down, and no request that it allows, or nearly, is an error of the server's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from raypipe.serve.app import create_app
from raypipe.serve.openapi import FILE, described
from raypipe.serve.settings import ServeSettings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_the_description_is_written_down() -> None:
    assert FILE.read_text() == described(), "run: python -m raypipe.serve.openapi"


def test_everything_is_described() -> None:
    about = create_app(ServeSettings(atlas="atlas")).openapi()
    asked = {path for path in about["paths"] if path.startswith("/v1/")}
    assert asked >= {
        f"/v1/{name}" for name in ("search", "embed", "fill-mask", "predict", "records/{id}", "sql", "info")
    }
    for path, operations in about["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert "200" in operation["responses"]
            if path in asked:
                assert operation["description"]
                assert {"401", "429", "503"} <= operation["responses"].keys(), path
            if method == "post":
                assert "application/json" in operation["requestBody"]["content"]
    for name, schema in about["components"]["schemas"].items():
        assert schema.get("description") or name == "JsonValue", name
        if name.endswith("Request"):
            for field, value in schema["properties"].items():
                assert value.get("description"), f"{name}.{field}"


@pytest.fixture
def app(finished: Path) -> Iterator[Any]:
    """A server that runs in this process, without a port; schemathesis ends it after a test."""
    limits: dict[str, Any] = {"max_length": 2000, "max_nucleotides": 5000, "max_queries": 20, "sql_seconds": 5}
    made = create_app(ServeSettings(atlas=str(finished), allowed_hosts=["*"], **limits))
    made.state.service.open()
    yield made
    made.state.service.close()


# What no chance finds, so that requests get beyond the first checks.
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "sequences": st.one_of(st.text("ACGUTacgun", min_size=1), st.lists(st.text("ACGU", min_size=1), min_size=1)),
    "ids": st.lists(st.sampled_from(["s1", "s2", "u1", "copy"]), min_size=1),
    "vectors": st.lists(st.lists(st.floats(-1, 1, width=32), min_size=16, max_size=16), min_size=1, max_size=3),
    "where": st.sampled_from(["family = 'tRNA'", "length > 20", "nothing", "rank / 0 > 1", "1"]),
    "columns": st.lists(st.sampled_from(["id", "score", "family", "seq_id", "n_records", "query", "sequence"])),
    "seq_ids": st.lists(st.integers(0, 7), min_size=1),
    "query": st.sampled_from(
        [
            "FROM records",
            "SELECT 1.5::DECIMAL(3, 1), DATE '2020-01-01', INTERVAL 1 DAY, 'a'::BLOB, [1, NULL], {'a': 1}, uuid()",
            "SELECT 'nan'::FLOAT, 1e300 * 1e300, sum(length), NULL FROM sequences",
            "FROM search('GGGCCC', k := 3)",
            "SELECT embed('ACGU')",
            "FROM neighbors('nobody')",
            "SELECT $a",
        ]
    ),
    "heads": st.sampled_from([["structure"], ["masked_lm"]]),
}


def _try(app: Any, examples: int) -> int:
    """Ask every operation so often; how many answers were good ones."""
    asked = schemathesis.openapi.from_asgi("/openapi.json", app)
    good = 0
    for found in asked.get_all_operations():
        assert isinstance(found, Ok)

        @given(case=found.ok().as_strategy(), data=st.data())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        def fits(case: Any, data: st.DataObject) -> None:
            nonlocal good
            if isinstance(case.body, dict):
                for name in GOOD.keys() & case.body.keys():
                    if data.draw(st.integers(0, 3)):
                        case.body[name] = data.draw(GOOD[name])
            if "id" in (case.path_parameters or {}) and data.draw(st.booleans()):
                case.path_parameters["id"] = "s1"
            answer = case.call_and_validate(checks=CHECKS)
            good += answer.status_code == 200

        fits()
    return good


def test_no_request_is_an_error_of_the_server(app: Any) -> None:
    assert _try(app, 8) >= 12


@pytest.mark.slow
def test_no_request_of_many_is_an_error_of_the_server(app: Any) -> None:
    assert _try(app, 300) >= 300
