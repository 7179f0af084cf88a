"""Settings of `raypipe eval structure`; loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field, field_validator

from raypipe.evaluation.settings import ANSWER, DATA, EvaluationSettings, Part
from raypipe.settings import HEADS, Names

LONGEST = 1022


@Parameter(name="*")
class StructureEvalSettings(EvaluationSettings):
    """Whose structures are compared with which known ones."""

    model: str = Field(
        default="nano", description="Checkpoint: a name of the registry, a folder, or a hub id (ORG/NAME[@REVISION])."
    )
    heads: Annotated[Names, Parameter(name=["--heads", "--head"])] = Field(
        default=[],
        description=f"{HEADS} They say of each pair of nucleotides whether it is one (structure, or binary contact). "
        "none: the comparisons alone. By default structure, or with --as the head of the result on its own model.",
    )
    as_result: Annotated[Path | None, Parameter(name="--as"), DATA] = Field(
        default=None,
        description="Result folder of raypipe finetune: measure its part test (or --split), split as it was there, "
        "longer sequences included. Reads the result's data where no input is named.",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Probability above which a pair can be chosen. By default the head's own, else 0.5.",
    )
    pseudoknots: bool = Field(default=False, description="Let predicted structures have pseudoknots.")
    compare: Names = Field(
        default=["auto"],
        description="vienna: minimum free energy by the ViennaRNA package; auto: the same, if it is installed; none.",
    )
    structure_column: Annotated[str | None, DATA] = Field(
        default=None, description="Column of the known structure. By default structure or dot_bracket."
    )
    where: Annotated[str | None, DATA] = Field(
        default=None,
        description="SQL condition on the table's columns, e.g. \"dataset = 'ArchiveII'\": other rows are not read.",
    )
    by: Annotated[str | None, DATA] = Field(
        default=None, description="Column whose values get figures of their own, such as family."
    )
    max_length: Annotated[int, DATA] = Field(
        default=LONGEST, ge=2, description="Longer sequences are left out: costs grow with the square and more."
    )
    distinct: Annotated[bool, Parameter(negative="--no-distinct"), DATA] = Field(
        default=True, description="Take each distinct sequence once, with the structure of its first row."
    )
    max_rejects: Annotated[float, DATA] = Field(
        default=0.02, ge=0, le=1, description="Share of rows with broken sequences or structures that is put up with."
    )
    split: Annotated[Part | None, DATA] = Field(
        default=None,
        description="Measure one part only, split as finetune does with the same --group-column (or --split-column), "
        "--valid and --test. By default all, and with --as test.",
    )
    split_column: Annotated[str | None, DATA] = Field(
        default=None, description="Column that says train, valid or test."
    )
    group_column: Annotated[str | None, DATA] = Field(
        default=None, description="Column of families or clusters that are kept together; by default each sequence."
    )
    valid: Annotated[float, DATA] = Field(default=0.1, ge=0, lt=1, description="Share of the part valid.")
    test: Annotated[float, DATA] = Field(default=0.1, ge=0, lt=1, description="Share of the part test.")
    details: Annotated[Path | None, ANSWER] = Field(
        default=None, description="TSV file to write, a row for every sequence and method, with the structures."
    )

    @property
    def part(self) -> Part:
        """What is measured: of a result its test part, unless told otherwise."""
        return self.split or ("all" if self.as_result is None else "test")

    @field_validator("compare")
    @classmethod
    def _known_comparisons(cls, value: list[str]) -> list[str]:
        for text in value:
            if text not in ("auto", "vienna", "none"):
                raise ValueError(f"comparison {text!r}: unknown; use auto, vienna or none")
        if len(value) != 1:
            raise ValueError("name one of auto, vienna and none")
        return value
