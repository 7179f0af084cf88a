"""What others rely on: public names, verbs and options, exit codes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from cyclopts import App

from raypipe.cli import run
from raypipe.cli.app import app

PUBLIC = {
    "raypipe": [
        "Atlas",
        "AtlasError",
        "RaypipeError",
        "RemoteAtlas",
        "Result",
        "Search",
        "UsageError",
        "__version__",
        "connect",
        "connect_async",
        "register",
    ],
    "model": [
        "AidoRnaConfig",
        "Alphabet",
        "CheckpointError",
        "Features",
        "HeadConfig",
        "Model",
        "ModelError",
        "SequenceError",
        "Structure",
        "convert",
        "decode_structure",
        "find_heads",
        "fingerprint",
        "load",
        "loss_terms",
        "mask_tokens",
        "registry",
        "shipped_checkpoint",
    ],
    "index": [
        "IndexInfo",
        "Searcher",
        "StaleIndexError",
        "Store",
        "StoreError",
        "StoreLockedError",
        "TableReport",
        "annotate",
        "available_columns",
        "build_index",
        "connect",
        "hit_table",
        "matching_sequences",
        "query",
        "resolve_ids",
    ],
}
VERBS = [
    "annotate",
    "cluster",
    "demo",
    "doctor",
    "embed",
    "eval mlm",
    "eval retrieval",
    "eval structure",
    "export",
    "fill-mask",
    "finetune",
    "index",
    "info",
    "ingest",
    "map",
    "mlm",
    "model convert",
    "model info",
    "neighbors",
    "plan",
    "predict",
    "pretrain",
    "remove",
    "search",
    "serve",
    "sql",
    "status",
    "submit",
    "verify",
]


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    """A name that goes away or comes is a decision, not an accident."""
    module = importlib.import_module(package)
    assert sorted(module.__all__) == PUBLIC[package]
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def commands(of: App, above: str = "") -> Iterator[tuple[str, App]]:
    """Every verb with its command, those of groups included."""
    for name in of:
        if name.startswith("-"):
            continue
        if of[name].default_command is None:
            yield from commands(of[name], f"{above}{name} ")
        else:
            yield f"{above}{name}", of[name]


def test_every_verb_and_option_is_explained() -> None:
    found = dict(commands(app))
    assert sorted(found) == VERBS
    for verb, command in found.items():
        assert command.help, verb
        for argument in command.assemble_argument_collection():
            if argument.show:
                assert argument.parameter.help, f"{verb} {argument.name}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["info", "no-such-atlas"], 1),
        (["no-such-verb"], 2),
        (["embed", "--no-such-option"], 2),
        (["embed"], 2),
        (["search", "atlas", "GGUC", "-k", "many"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """3, work left over, is in tests/faults."""
    assert run(arguments) == code
    said = capsys.readouterr()
    assert bool(said.out) == (code == 0)
    assert bool(said.err) == (code != 0)
    assert "Traceback" not in said.err
