"""pyproject.toml says what raypipe needs, constraints.txt what it was tested with; they agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ENGINE = {"torch", "ray", "safetensors", "huggingface-hub", "faiss-cpu", "faiss-gpu"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, list[Requirement]]:
    """Requirements by extra; "" those of a plain installation."""
    table = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {"": table["dependencies"], **table["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    """Versions by name."""
    lines = [line.split("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines()]
    found: dict[str, str] = {}
    for line in filter(None, lines):
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)", line).groups()  # type: ignore[union-attr]
        found[canonical(name)] = version
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[Requirement]) -> set[str]:
    return {canonical(requirement.name) for requirement in requirements}


def test_every_direct_dependency_is_pinned(project: dict[str, list[Requirement]], pins: dict[str, str]) -> None:
    for extra, requirements in project.items():
        for need in requirements:
            name = canonical(need.name)
            if name == "faiss-gpu":  # never beside faiss-cpu, which the tests run with
                continue
            assert name in pins, f"{name} of extra {extra!r}"
            assert need.specifier.contains(Version(pins[name])), f"{need} and {pins[name]}"
    assert pins["torch"] == "2.13.0"
    assert "faiss-gpu" not in pins


def test_a_plain_installation_is_the_client(project: dict[str, list[Requirement]]) -> None:
    assert not names(project[""]) & ENGINE


def test_extras_differ_in_faiss_only(project: dict[str, list[Requirement]]) -> None:
    assert names(project["cpu"]) - names(project["gpu"]) == {"faiss-cpu"}
    assert names(project["gpu"]) - names(project["cpu"]) == {"faiss-gpu"}
    cpu, gpu = ({need.name: str(need) for need in project[extra]} for extra in ("cpu", "gpu"))
    assert all(cpu[name] == gpu[name] for name in cpu.keys() & gpu.keys())
    assert names(project["cpu"]) == ENGINE - {"faiss-gpu"}


def test_ray_is_bounded(project: dict[str, list[Requirement]]) -> None:
    """Passing fault settings to map_batches goes away in 2.64."""
    (ray,) = (need for need in project["cpu"] if need.name == "ray")
    assert ray.specifier.contains("2.60.0")
    assert not ray.specifier.contains("2.64.0")
    assert {"data", "default"} <= ray.extras
