"""What a run of pre-training is told. The defaults are the recipe of the AIDO.RNA model card where it names one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field, model_validator

SHAPE = Parameter(group=Group("Shape of a new model", sort_key=1))
DATA = Parameter(group=Group("Which sequences, and how often", sort_key=2))
MASKED = Parameter(group=Group("Masked language model", sort_key=3))
PAIRS = Parameter(group=Group("Contrastive learning", sort_key=4))
STEPS = Parameter(group=Group("Steps", sort_key=5))
RUN = Parameter(group=Group("How it runs", sort_key=10))

Precision = Literal["bfloat16", "float32"]
Feeding = Literal["inline", "ray"]

SHAPES = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
OF_A_NEW_MODEL = (*SHAPES, "initializer_range")
"""What a checkpoint to go on from has settled."""

# What may differ between a run and the command that goes on with it: it says where and how a run computes, not what, so
# that weights and losses depend on it by rounding at most.
FREE = (
    "name",
    "store_dtype",
    "checkpoint_activations",
    "shard_weights",
    "gpus_per_worker",
    "address",
    "feed",
    "log_every",
    "valid_every",
    "valid_batches",
    "checkpoint_every",
    "keep_states",
)
FREE_BEFORE_A_STATE = ("batch_tokens", "accumulate")
"""What may change too while no state is written, for a run whose first step did not fit into memory."""

OF_ONE_COMMAND = ("max_minutes",)
"""What a run does not keep."""

MOST_VISITS = 1000.0
NO_CLANS = "none"


@Parameter(name="*")
class PretrainSettings(BaseModel):
    """A recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(default="pretrained", description="Name of the checkpoint that comes out.")
    model: str | None = Field(
        default=None, description="Go on from this checkpoint (a name, folder or hub id). By default a new model."
    )
    num_layers: Annotated[int, SHAPE] = Field(default=33, ge=1, description="Layers.")
    hidden_size: Annotated[int, SHAPE] = Field(default=1280, ge=2, description="Width.")
    num_heads: Annotated[int, SHAPE] = Field(default=20, ge=1, description="Attention heads.")
    intermediate_size: Annotated[int, SHAPE] = Field(default=3392, ge=1, description="Width inside of the SwiGLU.")
    initializer_range: Annotated[float, SHAPE] = Field(
        default=0.02,
        gt=0,
        description="Standard deviation of a new model's weights. Narrow models learn far faster from 0.1.",
    )
    local_start: Annotated[bool, SHAPE] = Field(
        default=False,
        description="A new model's heads begin by looking at one neighbour each. Learns far more from little data.",
    )
    hidden_dropout: Annotated[float, SHAPE] = Field(
        default=0.0, ge=0, lt=1, description="Dropout after attention and SwiGLU."
    )
    attention_dropout: Annotated[float, SHAPE] = Field(
        default=0.0, ge=0, lt=1, description="Dropout of attention probabilities."
    )

    type_column: Annotated[str | None, DATA] = Field(
        default=None, description="Annotation column with the RNA type, for type_weights."
    )
    type_weights: Annotated[dict[str, float], DATA] = Field(
        default={}, description="RNA type -> how often an epoch reads each of its sequences; 1 for all others."
    )
    family_column: Annotated[str | None, DATA] = Field(
        default=None, description="Annotation column with the family, for family_cap and contrastive learning."
    )
    clan_column: Annotated[str | None, DATA] = Field(
        default=None, description="Annotation column with the clan (related families); none where there are no clans."
    )
    family_cap: Annotated[int | None, DATA] = Field(
        default=None, ge=1, description="An epoch reads at most about so many sequences of one family."
    )
    max_length: Annotated[int | None, DATA] = Field(
        default=None, ge=1, description="Leave longer sequences out. By default they are cropped to the context."
    )
    valid_share: Annotated[float, DATA] = Field(
        default=0.01, ge=0, lt=1, description="Share of the sequences kept for validation."
    )
    valid_column: Annotated[str | None, DATA] = Field(
        default=None, description="Annotation column (cluster, family) whose values are kept together in that split."
    )
    hold_out_families: Annotated[bool, DATA] = Field(
        default=False,
        description="Leave out the families of the test split of `raypipe eval retrieval`, so that it can be trusted.",
    )
    hold_out_like: Annotated[bool, DATA] = Field(
        default=True,
        description="With them, leave out sequences of no known family that share 32 nucleotides in a row with one of "
        "them.",
    )

    mlm_weight: Annotated[float, MASKED] = Field(
        default=1.0, ge=0, description="Weight of the masked-LM loss, the mean over all tokens asked for in a step."
    )
    mask_rate: Annotated[float, MASKED] = Field(
        default=0.15, gt=0, le=1, description="Share of the nucleotides that is asked for."
    )
    mask_share: Annotated[float, MASKED] = Field(default=0.8, ge=0, le=1, description="Of these become <mask>.")
    random_share: Annotated[float, MASKED] = Field(
        default=0.1, ge=0, le=1, description="Of these become another nucleotide; the rest stays."
    )

    contrastive_weight: Annotated[float, PAIRS] = Field(
        default=0.0,
        ge=0,
        description="Weight of the contrastive loss on mean vectors; 0 leaves it out. Every worker has views of its "
        "own, and compares these with each other only.",
    )
    temperature: Annotated[float, PAIRS] = Field(default=0.07, gt=0, description="Of its softmax.")
    clan_weight: Annotated[float, PAIRS] = Field(
        default=0.5, ge=0, description="Weight of pairs of one clan, but not one family, beside those of one family."
    )
    families: Annotated[int, PAIRS] = Field(default=48, ge=0, description="Families or clans drawn for one batch.")
    per_family: Annotated[int, PAIRS] = Field(default=2, ge=2, description="Sequences drawn of each family.")
    per_clan: Annotated[int, PAIRS] = Field(default=2, ge=1, description="Families drawn of each clan.")
    singles: Annotated[int, PAIRS] = Field(
        default=32, ge=0, description="Sequences of any kind in one batch, of which two views are drawn."
    )
    crop: Annotated[float, PAIRS] = Field(
        default=0.7, gt=0, le=1, description="A view is a stretch of at least this share of its sequence."
    )
    mutate: Annotated[float, PAIRS] = Field(
        default=0.15, ge=0, lt=1, description="A view has up to this share of its nucleotides changed."
    )
    view_length: Annotated[int, PAIRS] = Field(default=192, ge=16, description="Nucleotides of a view at most.")
    mask_views: Annotated[float, PAIRS] = Field(
        default=0.5, ge=0, le=1, description="Share of the views that are masked, and asked for by the masked LM too."
    )

    epochs: Annotated[float, STEPS] = Field(default=6, gt=0, description="Times that the corpus is read.")
    steps: Annotated[int | None, STEPS] = Field(default=None, ge=1, description="Steps, instead of epochs.")
    batch_tokens: Annotated[int, STEPS] = Field(
        default=65_536, ge=64, description="Tokens of one forward and backward pass on each worker."
    )
    accumulate: Annotated[int, STEPS] = Field(default=1, ge=1, description="Passes of each worker in one step.")
    learning_rate: Annotated[float, STEPS] = Field(default=5e-5, gt=0, description="At its peak.")
    final_learning_rate: Annotated[float, STEPS] = Field(default=1e-5, ge=0, description="After the cosine.")
    warmup_steps: Annotated[int, STEPS] = Field(default=2000, ge=0, description="Steps from 0 to the peak.")
    weight_decay: Annotated[float, STEPS] = Field(default=0.01, ge=0, description="AdamW's, of matrices only.")
    beta2: Annotated[float, STEPS] = Field(default=0.98, gt=0, lt=1, description="AdamW's; its first is 0.9.")
    clip: Annotated[float, STEPS] = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    seed: Annotated[int, STEPS] = Field(default=0, ge=0, lt=2**32, description="Of weights, order, masks and views.")

    precision: Annotated[Precision, RUN] = Field(
        default="bfloat16", description="bfloat16: products in it by autocast, weights in float32."
    )
    checkpoint_activations: Annotated[bool, RUN] = Field(
        default=False, description="Compute activations again in the backward pass: less memory, a third more work."
    )
    workers: Annotated[int, RUN] = Field(
        default=1, ge=1, description="Processes, each with its own batches of a step; part of the recipe."
    )
    shard_weights: Annotated[bool, RUN] = Field(
        default=False, description="Spread weights and optimizer over the workers (FSDP2), for the large models."
    )
    gpus_per_worker: Annotated[float | None, RUN] = Field(
        default=None, ge=0, description="By default 1 where there are GPUs, else 0."
    )
    address: Annotated[str | None, RUN] = Field(
        default=None,
        description="Ray cluster to train on. By default one worker runs in this process, and several on $RAY_ADDRESS "
        "or on a Ray that starts here.",
    )
    feed: Annotated[Feeding | None, RUN] = Field(
        default=None,
        description="Where batches are made: inline, in each worker one step ahead; ray, by Ray Data on the cluster's "
        "CPUs. By default ray for several workers and for GPUs.",
    )
    log_every: Annotated[int, RUN] = Field(default=10, ge=1, description="Steps between lines of metrics.")
    valid_every: Annotated[int, RUN] = Field(default=200, ge=1, description="Steps between validations.")
    valid_batches: Annotated[int, RUN] = Field(
        default=8, ge=1, description="Batches of one validation, of batch_tokens each."
    )
    checkpoint_every: Annotated[int, RUN] = Field(
        default=200, ge=1, description="Steps between states, from which a run goes on."
    )
    keep_states: Annotated[int, RUN] = Field(default=2, ge=1, description="Of these the newest that are kept.")
    max_minutes: Annotated[float | None, RUN] = Field(
        default=None,
        gt=0,
        description="Stop after the step in which so many minutes are over, as on Ctrl-C: the state is written, and "
        "the same command goes on.",
    )
    store_dtype: Annotated[Literal["float16", "bfloat16", "float32"], RUN] = Field(
        default="float16", description="Type of the finished checkpoint's weights."
    )

    @model_validator(mode="after")
    def _fit(self) -> PretrainSettings:
        if not self.mlm_weight and not self.contrastive_weight:
            raise ValueError("nothing to learn: mlm_weight and contrastive_weight are both 0")
        if self.local_start and self.model is not None:
            raise ValueError("local_start is about a new model; leave it out to go on with a checkpoint")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError("mask_share and random_share exceed 1 together")
        if self.contrastive_weight and not (self.singles or (self.families and self.family_column)):
            raise ValueError("contrastive learning needs family_column with families above 0, or singles above 0")
        for name, needed in (("type_weights", "type_column"), ("family_cap", "family_column")):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{name} needs {needed}, the annotation column it is about")
        if any(not 0 <= weight <= MOST_VISITS for weight in self.type_weights.values()):
            raise ValueError(f"type_weights must not be negative, nor above {MOST_VISITS:g}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate:g} is above learning_rate {self.learning_rate:g}, its "
                f"peak; lower it too"
            )
        if self.workers > 1 and (self.gpus_per_worker or 0) % 1:
            raise ValueError(f"gpus_per_worker {self.gpus_per_worker:g}: workers that train together need whole GPUs")
        if self.hold_out_families and not (self.family_column and self.clan_column):
            raise ValueError(
                "hold_out_families needs family_column, and clan_column, by which the families are split (none where "
                "there are no clans): others are held out by families than by clans"
            )
        return self

    def resolved(self, begun_with: dict[str, Any]) -> dict[str, Any]:
        """All settings, as they stand in RUN/settings.json.

        Args:
            begun_with: the model's own, by the names of `OF_A_NEW_MODEL`.
        """
        return self.model_dump(mode="json", exclude=set(OF_ONE_COMMAND)) | begun_with
