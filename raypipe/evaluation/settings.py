"""Settings of `raypipe eval retrieval` and `raypipe eval mlm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Group, Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from index.store import Pooling
from index.transforms import parse_kind
from raypipe.evaluation.reports import ReportFormat
from raypipe.settings import RUN, Dtype, Names

Part = Literal["test", "valid", "train", "all"]

DATA = Parameter(group=Group("What is evaluated", sort_key=3))
ANSWER = Parameter(group=Group("The answer", sort_key=5))
# "-1,4" begins as an option does.
LAYERS = Parameter(allow_leading_hyphen=True)
# Every other verb says --model.
MODELS = Parameter(name=["--models", "--model"])
NO_COLUMN = "none"


def _as_text(value: Any) -> Any:
    """Numbers out of YAML as the command line writes them."""
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@Parameter(name="*")
class EvaluationSettings(BaseModel):
    """What every evaluation of models over a table is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id_column: Annotated[str | None, DATA] = Field(
        default=None, description="Id column of a table; by default id, name or accession."
    )
    sequence_column: Annotated[str | None, DATA] = Field(
        default=None, description="Sequence column of a table; by default sequence or seq."
    )
    sample: Annotated[int | None, DATA] = Field(
        default=None, ge=1, description="Ask so many sequences only, chosen by their md5: always the same ones."
    )
    on_long: Annotated[Literal["window", "truncate"], DATA] = Field(
        default="window",
        description="Sequences over the model's context: overlapping windows averaged, or the first window only.",
    )
    dtype: Annotated[Dtype | None, RUN] = Field(
        default=None, description="Compute type. By default float32 on CPU and bfloat16 on CUDA."
    )
    device: Annotated[str | None, RUN] = Field(
        default=None, description="cpu, cuda, cuda:1, ...; by default CUDA where there is one."
    )
    max_tokens: Annotated[int | None, RUN] = Field(
        default=None, ge=1, description="Tokens of one packed forward pass. By default what suits the device."
    )
    format: Annotated[ReportFormat, ANSWER] = Field(
        default="text", description="text: a table for people; json holds everything, the settings too."
    )
    output: Annotated[Path | None, Parameter(name=["--output", "-o"]), ANSWER] = Field(
        default=None, description="File to write, its settings beside it; by default standard output."
    )


@Parameter(name="*")
class RetrievalSettings(EvaluationSettings):
    """Which vectors are compared, on which queries, with what."""

    models: Annotated[Names, MODELS] = Field(
        default=["nano"],
        description="Checkpoints (names, folders, hub ids), separated by commas; none for the baselines alone.",
    )
    pooling: Names = Field(default=["mean"], description="mean, cls, max; several are compared, as in: mean,max.")
    layer: Annotated[Names, BeforeValidator(_as_text), LAYERS] = Field(
        default=["-1"], description="Layers, as in: -1,4. 0 the embeddings, 1.. after each layer, -1 the last."
    )
    transform: Names = Field(
        default=["none", "auto"],
        description="none, center, whiten, whiten:DIM, pca:DIM, separated by commas; learned from all vectors, without "
        "labels, as an index does; auto: what an index would choose.",
    )
    codes: Names = Field(
        default=["none"],
        description="FAISS codes that the vectors are held in, as a compressing index holds them: SQfp16,SQ8,RaBitQ; "
        "none compares them as they are.",
    )
    baselines: Names = Field(
        default=["auto"], description="kmer, blastn, mmseqs; auto: those that can run here; or none."
    )
    kmer: int = Field(default=6, ge=1, le=10, description="Length of the words of the k-mer profiles.")
    threads: int | None = Field(
        default=None, ge=1, description="Threads of blastn and mmseqs. By default as many as there are processors."
    )
    cache: Path | None = Field(
        default=None, description="Folder that keeps the vectors, for further evaluations of the same model and table."
    )
    split: Annotated[Part, DATA] = Field(
        default="test",
        description="Families that are asked for, split by clan; test: those that never teach the models of raypipe. "
        "What is searched is always everything.",
    )
    family_column: Annotated[str, DATA] = Field(default="rfam_acc", description="Column of the family.")
    clan_column: Annotated[str, DATA] = Field(
        default="clan", description="Column of the clan, empty where there is none; or none: there are no clans."
    )
    cluster_column: Annotated[str, DATA] = Field(
        default="cluster80",
        description="Column of the cluster of near-identical sequences, whose hits do not count; or none: each "
        "distinct sequence is one.",
    )

    @field_validator("pooling")
    @classmethod
    def _known_poolings(cls, value: list[str]) -> list[str]:
        return _among(value, get_args(Pooling), "pooling")

    @field_validator("layer")
    @classmethod
    def _known_layers(cls, value: list[str]) -> list[str]:
        for text in value:
            if not text.removeprefix("-").isdecimal() or int(text) < -1:
                raise ValueError(f"layer {text!r}: give whole numbers from 0 up, or -1 for the last")
        return _several(value, "layer")

    @field_validator("transform")
    @classmethod
    def _known_transforms(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                parse_kind(text)
            except Exception as error:
                raise ValueError(str(error)) from error
        return _several(value, "transform")

    @field_validator("codes")
    @classmethod
    def _distinct_codes(cls, value: list[str]) -> list[str]:
        return _several(value, "codes")

    @field_validator("baselines")
    @classmethod
    def _known_baselines(cls, value: list[str]) -> list[str]:
        if {"auto", "none"} & set(value) and len(value) > 1:
            raise ValueError("auto and none stand alone; or name some of kmer, blastn, mmseqs")
        return _among(value, ("auto", "none", "kmer", "blastn", "mmseqs"), "baseline")

    @property
    def layers(self) -> list[int]:
        """The layers as numbers."""
        return [int(text) for text in self.layer]


@Parameter(name="*")
class MlmEvalSettings(EvaluationSettings):
    """What is hidden, and from whom."""

    models: Annotated[Names, MODELS] = Field(
        default=["nano"], description="Checkpoints (names, folders, hub ids), separated by commas."
    )
    share: Annotated[float, DATA] = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Share of the distinct sequences that is asked for, chosen by md5 as `raypipe pretrain` chooses "
        "its valid-share. The others teach the counts of the context model.",
    )
    by: Annotated[str | None, DATA] = Field(
        default=None, description="Column by which results are told apart, such as rna_type."
    )
    annotations: Annotated[Path | None, DATA] = Field(
        default=None, description="Parquet, CSV or TSV with ids and the column of --by, where the input has none."
    )
    rate: float = Field(default=0.15, gt=0, le=1, description="Share of the nucleotides that is hidden behind <mask>.")
    context: int = Field(
        default=3, ge=0, le=4, description="Letters to the left and to the right that the context model looks at."
    )
    seed: int = Field(default=0, ge=0, description="Of the choice what is hidden.")

    @field_validator("models")
    @classmethod
    def _some_models(cls, value: list[str]) -> list[str]:
        return _several(value, "model")


def _several(value: list[str], what: str) -> list[str]:
    if not value:
        raise ValueError(f"name at least one {what}")
    return list(dict.fromkeys(value))


def _among(value: list[str], known: tuple[str, ...], what: str) -> list[str]:
    for text in value:
        if text not in known:
            raise ValueError(f"{what} {text!r}: unknown; use {', '.join(known)}")
    return _several(value, what)
