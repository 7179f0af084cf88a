"""Settings of the commands: strict, described once, and the same on the command line, in YAML and in the environment.

Precedence: command line, then `RAYPIPE_*`, then the YAML file of `--config`, then the default here.
"""

from __future__ import annotations

from typing import Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from index.store import OnLong, Pooling, VectorDtype

Dtype = Literal["float32", "bfloat16", "float16"]


@Parameter(name="*")
class EmbedSettings(BaseModel):
    """How vectors are made, and on what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        default="nano", description="Checkpoint: a name of the registry, a folder, or a hub id (ORG/NAME[@REVISION])."
    )
    name: str | None = Field(
        default=None,
        description="Name of this set of vectors. By default the model's, with an unusual layer or pooling.",
    )
    pooling: Pooling = Field(
        default="mean", description="How a sequence becomes one vector; mean and max leave the special tokens out."
    )
    layer: int = Field(
        default=-1, ge=-1, description="0 the embeddings, 1.. after each layer, -1 the last, final-normed."
    )
    on_long: OnLong = Field(
        default="window",
        description="Sequences over the model's context: overlapping windows averaged, the first window only, or none.",
    )
    dtype: Dtype | None = Field(
        default=None, description="Compute type. By default float32 on CPU and bfloat16 on CUDA."
    )
    store_dtype: VectorDtype = Field(default="float16", description="Type of the stored vectors.")
    per_token: bool = Field(default=False, description="Also store one vector per nucleotide, in tokens/.")
    shard_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of one shard, the unit of work and of loss at a kill. By default some 20 s of work.",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of one packed forward pass. By default what suits the device."
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Actors. By default one for every GPU, else one for every CPU that memory allows.",
    )
    gpus_per_worker: float | None = Field(
        default=None, ge=0, description="GPUs of one actor. By default 1 where the cluster has GPUs, else 0."
    )
    address: str | None = Field(
        default=None,
        description="Ray cluster to join. By default $RAY_ADDRESS, else Ray starts here and ends with the run.",
    )
    executor: Literal["ray", "inline"] = Field(
        default="ray", description="inline: the same actor in this process, without Ray, for debugging."
    )


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
