"""What is known of every published checkpoint, and where the shipped one stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from model.config import AidoRnaConfig
from model.errors import ModelError

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Entry:
    """One checkpoint of the registry.

    Attributes:
        name: short name, as `--model` takes it.
        title: one line for people.
        num_layers, hidden_size, num_heads, intermediate_size, norm, linear_bias: dimensions, see AidoRnaConfig.
        dims: how the dimensions are known: published, reported by a third party, or inferred.
        parameters: counted on these dimensions, see registry.toml.
        context: tokens of the trained context, special tokens included.
        licence, origin, training: in words.
        trained: whether the weights mean anything.
        multimolecule, genbio: hub ids of the two layouts, where they exist.
        u_row: GenBio's vocabulary row that carries uracil, "ask" where the sources disagree, None without GenBio files.
        folder: folder inside this package, for a checkpoint that ships with it.
    """

    name: str
    title: str
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    parameters: int
    dims: Literal["published", "reported", "inferred"]
    norm: Literal["layernorm", "rmsnorm"]
    linear_bias: bool
    context: int
    licence: str
    origin: str
    training: str
    trained: bool
    multimolecule: str | None = None
    genbio: str | None = None
    u_row: Literal["U", "T", "ask"] | None = None
    folder: str | None = None

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """Hub ids, the directly loadable layout first."""
        return tuple(hub for hub in (self.multimolecule, self.genbio) if hub)

    @property
    def config(self) -> AidoRnaConfig:
        """The encoder's configuration by the registry, in the 26-letter vocabulary."""
        return AidoRnaConfig(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            max_positions=self.context,
            norm=self.norm,
            linear_bias=self.linear_bias,
        )


@cache
def entries() -> dict[str, Entry]:
    """Every checkpoint by its short name."""
    with (_PACKAGE / "registry.toml").open("rb") as file:
        return {name: Entry(name=name, **fields) for name, fields in tomllib.load(file).items()}


def names() -> list[str]:
    """The short names."""
    return list(entries())


def find(name: str) -> Entry | None:
    """The checkpoint of a short name or a hub id, letter case ignored; None where there is none."""
    # GenBio renamed its repositories from AIDO.RNA to GB.RNA; both names are in use.
    wanted = name.lower().replace("genbio-ai/gb.rna", "genbio-ai/aido.rna")
    for entry in entries().values():
        if wanted == entry.name or wanted in (hub.lower() for hub in entry.hub_ids):
            return entry
    return None


def get(name: str) -> Entry:
    """As `find`, but an unknown name is a ModelError that lists the known ones."""
    entry = find(name)
    if entry is None:
        raise ModelError(f"no checkpoint is called {name!r}; known are {', '.join(names())}")
    return entry


def recognise(text: str) -> Entry | None:
    """The published checkpoint that a folder name or `_name_or_path` speaks of, or None.

    `AIDO.RNA-650M-CDS`, `GB.RNA-650M-CDS` (GenBio's later name), `aido_rna_650m_cds` and paths or hub ids that end
    in one of these are recognised, with an @REVISION too; the whole last component has to fit, so
    `650M-CDS-finetuned` is not.
    """
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1].partition("@")[0].lower()
    key = re.sub(r"^(aido|gb)[._-]?rna[._-]", "aido.rna-", last).replace("_", "-")
    return entries().get(key)


def shipped_checkpoint(name: str = "nano") -> Path:
    """The folder of a checkpoint that ships with this package.

    Raises:
        ModelError: the name is not that of a shipped checkpoint, or the installation lacks its files.
    """
    entry = get(name)
    if entry.folder is None:
        hubs = " or ".join(entry.hub_ids)
        raise ModelError(
            f"{entry.name} does not ship with this package. `raypipe` finds it where it has been downloaded "
            f"(hub: {hubs}); or give the folder that holds its config.json and model.safetensors"
        )
    folder = _PACKAGE / entry.folder
    if not (folder / "config.json").is_file():
        raise ModelError(f"the installation lacks the shipped checkpoint {name!r} ({folder}); reinstall the package")
    return folder
