"""Settings of the commands: strict, described once, and the same on the command line, in YAML and in the environment.

Precedence: command line, then `RAYPIPE_*`, then the YAML file of `--config`, then the default here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from index.store import OnLong, Pooling, VectorDtype

Dtype = Literal["float32", "bfloat16", "float16"]
RunDtype = Literal["float32", "bfloat16", "float16", "float8"]
Scores = Literal["pll", "logits", "variants"]
Method = Literal["masked", "wild-type"]

# Shown after what belongs to one verb.
RUN = Parameter(group=Group("How it runs", sort_key=10))


def _split(value: Any) -> Any:
    """Names separated by commas, in repeated options, in lists (also of JSON), or all of these, as one list."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple):
        parts = [_split(part) for part in value]
        return [item for part in parts for item in (part if isinstance(part, list) else [part])]
    return value


def _check_name(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; give the set a name, or leave it out")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("use letters, digits, '.', '_' and '-' only, and begin with a letter or digit")
    return value


Names = Annotated[list[str], BeforeValidator(_split)]
# Of a set: a folder is called so.
SetName = Annotated[str, AfterValidator(_check_name)]
HEADS = (
    "Heads of the checkpoint, adapters in its folder heads/, files of adapters (.safetensors), or result folders of "
    "raypipe finetune, separated by commas."
)


@Parameter(name="*")
class RunSettings(BaseModel):
    """What every run of a model over a store's sequences is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        default="nano", description="Checkpoint: a name of the registry, a folder, or a hub id (ORG/NAME[@REVISION])."
    )
    on_long: OnLong = Field(
        default="window",
        description="Sequences over the model's context: overlapping windows averaged, the first window only, or none.",
    )
    dtype: Annotated[RunDtype | None, RUN] = Field(
        default=None,
        description="Compute type. By default bfloat16 on CUDA and on a CPU with instructions for it, else float32. "
        "float8: bfloat16 with most products in 8 bits (emulated on a CPU).",
    )
    shard_tokens: Annotated[int | None, RUN] = Field(
        default=None,
        ge=1,
        description="Tokens of one shard, the unit of work and of loss at a kill. By default some 20 s of work.",
    )
    max_tokens: Annotated[int | None, RUN] = Field(
        default=None, ge=1, description="Tokens of one packed forward pass. By default what suits the device."
    )
    workers: Annotated[int | None, RUN] = Field(
        default=None,
        ge=1,
        description="Actors. By default one for every GPU, else one for every CPU that memory allows.",
    )
    gpus_per_worker: Annotated[float | None, RUN] = Field(
        default=None, ge=0, description="GPUs of one actor. By default 1 where the cluster has GPUs, else 0."
    )
    address: Annotated[str | None, RUN] = Field(
        default=None,
        description="Ray cluster to join. By default $RAY_ADDRESS, else Ray starts here and ends with the run.",
    )
    stall_minutes: Annotated[float, RUN] = Field(
        default=30,
        ge=0,
        description="Minutes without a forward pass or a file after which a worker is replaced; 0 for never.",
    )
    executor: Annotated[Literal["ray", "inline"], RUN] = Field(
        default="ray", description="inline: the same actor in this process, without Ray, for debugging."
    )


@Parameter(name="*")
class EmbedSettings(RunSettings):
    """How vectors are made, and on what."""

    name: SetName | None = Field(
        default=None,
        description="Name of this set of vectors. By default the model's, with an unusual layer or pooling.",
    )
    pooling: Pooling = Field(
        default="mean", description="How a sequence becomes one vector; mean and max leave the special tokens out."
    )
    layer: int = Field(
        default=-1, ge=-1, description="0 the embeddings, 1.. after each layer, -1 the last, final-normed."
    )
    store_dtype: VectorDtype = Field(default="float16", description="Type of the stored vectors.")
    per_token: bool = Field(default=False, description="Also store one vector per nucleotide, in tokens/.")
    heads: Names = Field(default=[], description=f"Predict in the same pass. {HEADS}")


@Parameter(name="*")
class PredictSettings(RunSettings):
    """What heads predict, and on what."""

    heads: Names = Field(default=[], description=f"{HEADS} A result brings its model, unless --model is given.")
    name: SetName | None = Field(
        default=None, description="Name of the set of predictions, where there is one head. By default the head's."
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Probability above which an answer is positive, or a pair in contact. By default the head's own, "
        "else 0.5.",
    )
    pseudoknots: bool = Field(default=False, description="Let structures have pseudoknots.")


@Parameter(name="*")
class MlmSettings(RunSettings):
    """What the masked language model is asked, and on what."""

    what: Scores = Field(
        default="pll",
        description="pll: pseudo-log-likelihood and pseudo-perplexity of a sequence; logits: of every nucleotide over "
        "the vocabulary; variants: every substitution of one nucleotide.",
    )
    method: Method = Field(
        default="masked",
        description="For pll and variants: mask every nucleotide in a copy of its own, or read the sequence once as it "
        "is (wild-type: as many times faster as the sequence is long).",
    )
    name: SetName | None = Field(default=None, description="Name of the set of predictions. By default what it is.")
    store_dtype: VectorDtype = Field(default="float16", description="Type of the stored logits.")


@Parameter(name="*")
class PlanSettings(BaseModel):
    """What a run would be asked for, and on what it would run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        default="nano", description="Checkpoint: a name of the registry (its files are not needed), a folder, a hub id."
    )
    device: Literal["cpu", "a100", "h100", "h200"] = Field(default="cpu", description="What it would run on.")
    gpus: int = Field(default=1, ge=1, description="GPUs, of a GPU device.")
    cpus: int | None = Field(default=None, ge=1, description="Cores, of device cpu. By default this machine's.")
    utilisation: float | None = Field(
        default=None, gt=0, le=1, description="Share of the device's peak that is reached. By default 0.4 on GPUs."
    )
    measure: bool = Field(default=False, description="Run some batches of the model on one core here (device cpu).")
    on_long: OnLong = Field(default="window", description="As of raypipe embed.")
    per_token: bool = Field(default=False, description="Also store one vector per nucleotide.")
    store_dtype: VectorDtype = Field(default="float16", description="Type of the stored vectors.")
    heads: Names = Field(default=[], description="Heads that predict in the same pass; as of raypipe embed.")


@Parameter(name="*")
class IngestSettings(BaseModel):
    """How input files are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id_column: str | None = Field(default=None, description="Id column of a table; by default id, name or accession.")
    sequence_column: str | None = Field(
        default=None, description="Sequence column of a table; by default sequence or seq."
    )
    accept_changed: bool = Field(
        default=False, description="Ingest a file again whose content has changed since; its earlier records stay."
    )
