"""Settings of the server: the files in configs/, and under which names it may be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.serve.settings import ServeOptions, ServeSettings


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def test_the_shipped_files_hold_settings(root: Path) -> None:
    shipped = read(root / "configs" / "serve.yaml")
    assert ServeOptions(**shipped) == ServeOptions(), "the file shows the defaults"
    (application,) = read(root / "configs" / "serve-deploy.yaml")["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == ("raypipe.serve.ray_app", "build")
    assert ServeSettings(**application["args"]).replicas == 2


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, ["127.0.0.1", "localhost", "::1"]),
        ({"host": "127.0.0.2"}, ["127.0.0.1", "localhost", "::1", "127.0.0.2"]),
        ({"host": "127.rna.example"}, ["*"]),
        ({"host": "0.0.0.0"}, ["*"]),
        ({"host": "0.0.0.0", "allowed_hosts": "rna.example, www.rna.example"}, ["rna.example", "www.rna.example"]),
    ],
)
def test_names_of_the_server(given: dict[str, Any], hosts: list[str]) -> None:
    settings = ServeSettings(atlas="a", **given)
    assert settings.hosts == hosts
    assert settings.local == ("127.0.0.1" in hosts)


@pytest.mark.parametrize("wrong", [{"port": 70000}, {"max_k": 0}, {"sql_seconds": 0}, {"colour": "red"}, {"host": ""}])
def test_settings_are_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServeOptions(**wrong)
