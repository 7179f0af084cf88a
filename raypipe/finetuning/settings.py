"""Settings of `raypipe finetune`; loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field

from model.head_config import HeadConfig, Kind, Problem
from raypipe.errors import UsageError
from raypipe.settings import RUN, Dtype, Names

Method = Literal["frozen", "lora", "full"]
PAIR_TASKS = ("contact", "structure")
LONGEST_PAIRS = 512
"""Nucleotides of the longest sequence of a pair task unless told otherwise: its cost grows with the square."""

DATA = Parameter(group=Group("Data", sort_key=1))
SPLIT = Parameter(group=Group("Split", sort_key=2))
HEAD = Parameter(group=Group("Head", sort_key=3))
TRAINING = Parameter(group=Group("Training", sort_key=4))
LORA = Parameter(group=Group("LoRA", sort_key=5))

# What may differ between a run and the command that goes on with it. Type of computation and cache stay what they were
# when the run was begun; on another device sums are rounded, and dropout falls, in another way, which is said.
FREE = ("output", "data", "table", "finish", "cache_gib", "device", "checkpoint_activations")


@Parameter(name="*")
class FinetuneSettings(BaseModel):
    """What is taught, with what, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Kind | None = Field(default=None, description="What the labels speak of.")
    data: Annotated[list[Path], DATA] = Field(
        default=[],
        description="Parquet, CSV or TSV with a sequence and a label column; dot-bracket, bpseq or ct files, or a "
        "folder of these, for structures; FASTA with --table. May be repeated.",
    )
    table: Annotated[Path | None, DATA] = Field(
        default=None, description="Table with an id and a label column, for sequences that stand in --data."
    )
    labels: Annotated[Names, DATA] = Field(
        default=[], description="Label columns, separated by commas; several are the outputs of one head."
    )
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = Field(
        default=None, description="Folder of the result; made where it is missing."
    )
    model: str = Field(
        default="nano", description="Checkpoint: a name of the registry, a folder, or a hub id (ORG/NAME[@REVISION])."
    )
    method: Method = Field(
        default="frozen",
        description="frozen: the head alone; lora: low-rank updates of the trunk as well; full: all weights.",
    )
    id_column: Annotated[str | None, DATA] = Field(
        default=None, description="Id column; by default id, name or accession, else rows are numbered."
    )
    sequence_column: Annotated[str | None, DATA] = Field(
        default=None, description="Sequence column; by default sequence or seq."
    )
    where: Annotated[str | None, DATA] = Field(
        default=None, description="SQL condition on the columns of the table: other rows are not read."
    )
    problem: Annotated[Problem | None, DATA] = Field(
        default=None, description="By default what the labels look like: texts are classes, decimal numbers values."
    )
    positive: Annotated[str | None, DATA] = Field(
        default=None, description="Which of two labels is yes; the problem is then binary."
    )
    rename: Annotated[Names, DATA] = Field(
        default=[],
        description="OLD=NEW,...: rename and merge classes; '*=NEW' is for all others, OLD= makes it unlabelled.",
    )
    missing: Annotated[Names, DATA] = Field(
        default=["NA", "nan", "null", "None", "?"], description="Label values that mean: not labelled, as empty does."
    )
    min_per_class: Annotated[int, DATA] = Field(
        default=1, ge=1, description="Classes with fewer sequences (nucleotides, for token) are left out."
    )
    max_per_class: Annotated[int | None, DATA] = Field(
        default=None, ge=1, description="Sequences taken of one class at most, the same ones every time."
    )
    sample: Annotated[int | None, DATA] = Field(
        default=None, ge=1, description="Sequences taken in all at most, the same ones every time."
    )
    max_length: Annotated[int | None, DATA] = Field(
        default=None,
        ge=2,
        description="Longer sequences are left out. By default 512 for pairs; others are read in windows.",
    )
    max_rejects: Annotated[float, DATA] = Field(
        default=0.02, ge=0, le=1, description="Share of rows with broken sequences or labels that is put up with."
    )
    split_column: Annotated[str | None, SPLIT] = Field(
        default=None, description="Column that says train, valid or test."
    )
    group_column: Annotated[Names, SPLIT] = Field(
        default=[],
        description="Column of clans, families or clusters that are kept together; of several columns the first "
        "that is not empty. By default each sequence.",
    )
    valid: Annotated[float, SPLIT] = Field(
        default=0.1, ge=0, lt=1, description="Share for early stopping. With --split-column the column decides."
    )
    test: Annotated[float, SPLIT] = Field(default=0.1, ge=0, lt=1, description="Share held out to the end.")
    cluster: Annotated[float | None, SPLIT] = Field(
        default=None,
        gt=0,
        le=1,
        description="Keep sequences together that are alike to this share, e.g. 0.8, by the words of 10 nt that they "
        "share.",
    )
    test_where: Annotated[str | None, SPLIT] = Field(
        default=None,
        description="SQL condition on the table's columns: these rows are test, instead of a share, such as families "
        "held out. What shares a group with them, or with --cluster is alike, is not used.",
    )
    name: Annotated[str | None, HEAD] = Field(
        default=None, description="Name of the head. By default that of the label column."
    )
    pooling: Annotated[Literal["mean", "max", "cls", "pooler"] | None, HEAD] = Field(
        default=None, description="What a sequence head reads of the sequence. By default mean."
    )
    transform: Annotated[Literal["linear", "nonlinear"] | None, HEAD] = Field(
        default=None, description="A layer before the last linear map: dense and norm, or with GELU between."
    )
    dropout: Annotated[float | None, HEAD] = Field(
        default=None, ge=0, lt=1, description="Of what the head reads. By default 0.1; a structure head has none."
    )
    threshold: Annotated[float | Literal["auto"] | None, HEAD] = Field(
        default=None,
        description="Probability above which the answer is yes, or auto: the best on valid (the default for pairs).",
    )
    whiten: Annotated[bool | None, Parameter(negative="--no-whiten"), HEAD] = Field(
        default=None,
        description="Whiten what the head reads while it learns; the finished head has it in its weights. By default "
        "where the head begins with a linear map.",
    )
    start: Annotated[Path | None, HEAD] = Field(
        default=None,
        description="Head (NAME.safetensors) to go on from; its classes hold. With --epochs 0: measure it.",
    )
    epochs: Annotated[int, TRAINING] = Field(default=20, ge=0, description="Times that all training data is seen.")
    patience: Annotated[int | None, TRAINING] = Field(
        default=5, ge=1, description="Epochs without a better --metric after which training stops."
    )
    metric: Annotated[str | None, TRAINING] = Field(
        default=None,
        description="What the best epoch is chosen by, on valid. By default macro_f1 (classes), auroc (yes or no), "
        "spearman (values), f1 (pairs).",
    )
    lr: Annotated[float, TRAINING] = Field(default=1e-3, gt=0, le=100, description="Highest learning rate of the head.")
    trunk_lr: Annotated[float | None, TRAINING] = Field(
        default=None, gt=0, description="Of the trunk. By default 5e-4 with lora, 5e-5 with full."
    )
    weight_decay: Annotated[float, TRAINING] = Field(default=0.01, ge=0, description="Of AdamW, on matrices.")
    warmup: Annotated[float, TRAINING] = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    batch_tokens: Annotated[int | None, TRAINING] = Field(
        default=None, ge=1, description="Tokens of one forward pass. By default 4096, and 256 for pairs."
    )
    accumulate: Annotated[int, TRAINING] = Field(default=1, ge=1, description="Forward passes of one step.")
    clip: Annotated[float, TRAINING] = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    class_weights: Annotated[Names, TRAINING] = Field(
        default=["none"],
        description="none, balanced, or NAME=WEIGHT,...: of the classes; of the yes of yes-or-no labels.",
    )
    positive_weight: Annotated[float, TRAINING] = Field(
        default=1.0, gt=0, description="Weight of the pairs among all pairs, for contact and structure."
    )
    trunk_dropout: Annotated[float, TRAINING] = Field(
        default=0.0, ge=0, lt=1, description="Dropout in the trunk, with lora and full."
    )
    seed: Annotated[int, TRAINING] = Field(default=0, ge=0, lt=2**32, description="Of weights, order and dropout.")
    lora_rank: Annotated[int, LORA] = Field(default=8, ge=1, description="Rank of the updates.")
    lora_alpha: Annotated[float, LORA] = Field(default=16.0, gt=0, description="Updates are scaled by alpha / rank.")
    lora_dropout: Annotated[float, LORA] = Field(default=0.0, ge=0, lt=1, description="Of what the updates read.")
    lora_targets: Annotated[Names, LORA] = Field(
        default=["query", "value"],
        description="Linear maps that are updated: query, key, value, output, gate, up, down.",
    )
    dtype: Annotated[Dtype | None, RUN] = Field(
        default=None,
        description="Type of the trunk's computation (autocast, with lora and full). By default float32 on CPU and "
        "bfloat16 on CUDA.",
    )
    head_dtype: Annotated[Literal["float32", "bfloat16"], RUN] = Field(
        default="float32",
        description="Type in which a structure head's maps are computed while it learns; bfloat16 takes half the time "
        "where the processor has it.",
    )
    device: Annotated[str | None, RUN] = Field(
        default=None, description="cpu, cuda, cuda:1, ...; by default CUDA where there is one."
    )
    cache_gib: Annotated[float, RUN] = Field(
        default=16.0,
        ge=0,
        description="Disk for what a frozen trunk gives, computed once; 0 computes it every epoch. Settled when a run "
        "begins.",
    )
    checkpoint_activations: Annotated[bool, RUN] = Field(
        default=False, description="Compute the trunk twice to save memory, with lora and full."
    )
    finish: Annotated[bool, RUN] = Field(
        default=False, description="Train no further: write the result of the best epoch so far."
    )

    @property
    def kind(self) -> Kind:
        """The task, once `check` has seen that there is one."""
        assert self.task is not None
        return self.task

    @property
    def pairs(self) -> bool:
        """Whether labels are pairs of nucleotides."""
        return self.task in PAIR_TASKS

    @property
    def trunk_rate(self) -> float:
        """Learning rate of the trunk, 0 where it is frozen."""
        if self.method == "frozen":
            return 0.0
        return self.trunk_lr or (5e-4 if self.method == "lora" else 5e-5)

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch_tokens or (256 if self.pairs else 4096)

    def longest(self, context: int) -> int | None:
        """Nucleotides of the longest sequence that is used; None: any."""
        if not self.pairs:
            return self.max_length
        return min(context, self.max_length or LONGEST_PAIRS)

    def resolved(self) -> dict[str, Any]:
        """For settings.json: everything that is set, paths from the root; `--config` reads it."""
        absolute = {name: getattr(self, name) for name in ("output", "table", "start") if getattr(self, name)}
        return {
            **self.model_dump(mode="json", exclude_none=True, exclude={"finish"}),
            **{name: str(path.absolute()) for name, path in absolute.items()},
            "data": [str(path.absolute()) for path in self.data],
        }


def check(settings: FinetuneSettings) -> None:
    """Refuse settings that contradict each other, before anything is read.

    Raises:
        UsageError: what is wrong and what to write instead.
    """
    task = settings.task
    if task is None:
        raise UsageError("say what the labels speak of: --task sequence, token, contact or structure")
    if not settings.data:
        raise UsageError("name the labelled sequences: --data FILE")
    if settings.output is None:
        raise UsageError("name the folder of the result: -o RESULT")
    if settings.pairs and settings.problem not in (None, "binary"):
        raise UsageError(f"--problem {settings.problem}: a {task} is there or not (binary); leave it out")
    if settings.positive is not None and (settings.pairs or settings.problem not in (None, "binary")):
        raise UsageError("--positive: names the yes of two labels (--problem binary); leave it out")
    if task != "sequence" and settings.pooling:
        raise UsageError(f"--pooling: only a sequence head reads a pooled vector; leave it out with --task {task}")
    if task == "structure" and (settings.transform or settings.dropout):
        raise UsageError("--transform, --dropout: a structure head has a fixed form; leave them out")
    if task != "structure" and settings.head_dtype != "float32":
        raise UsageError("--head-dtype: is for structure heads; leave it out")
    if settings.pairs and settings.class_weights != ["none"]:
        raise UsageError(f"--class-weights: a {task} has no classes; use --positive-weight")
    if not settings.pairs and settings.positive_weight != 1:
        raise UsageError("--positive-weight: is for contact and structure; use --class-weights")
    if settings.pairs and (settings.max_per_class or settings.min_per_class > 1 or settings.rename):
        raise UsageError(f"--min-per-class, --max-per-class, --rename: a {task} has no classes; leave them out")
    if settings.valid + settings.test >= 1:
        raise UsageError(f"--valid {settings.valid:g} and --test {settings.test:g} leave nothing to train on")
    if settings.split_column and (settings.cluster or settings.test_where or settings.group_column):
        raise UsageError(
            "--group-column, --cluster, --test-where: with --split-column the column decides; leave them out"
        )
    if settings.threshold is not None and settings.threshold != "auto" and not 0 <= settings.threshold < 1:
        raise UsageError(f"--threshold {settings.threshold:g}: is a probability, from 0 to below 1")
    _check_method(settings)
    if settings.method != "frozen" and settings.dtype == "float16":
        raise UsageError("--dtype float16: gradients underflow in it; train in bfloat16 or float32")
    if settings.start:
        given = [
            name for name in ("problem", "positive", "pooling", "transform") if getattr(settings, name) is not None
        ]
        if given:
            raise UsageError(f"--{given[0]}: the head of --start has its own already; leave it out")
        if settings.min_per_class > 1:
            raise UsageError("--min-per-class: the classes are those of the head of --start; leave it out")
    elif not settings.epochs:
        raise UsageError("--epochs 0: measures a head; name it with --start")
    elif settings.whiten and task == "contact" and settings.transform is None:
        raise UsageError("--whiten: a contact head without --transform multiplies states as they are; leave it out")


def _check_method(settings: FinetuneSettings) -> None:
    """Refuse options of another method."""
    usual = FinetuneSettings()
    for name in FinetuneSettings.model_fields:
        if getattr(settings, name) == getattr(usual, name):
            continue
        option = f"--{name.replace('_', '-')}"
        if settings.method == "frozen" and name in ("trunk_lr", "trunk_dropout", "checkpoint_activations"):
            raise UsageError(f"{option}: a frozen trunk is not trained; add --method lora or full")
        if settings.method != "lora" and name.startswith("lora_"):
            raise UsageError(f"{option}: is for --method lora; leave it out")


def head_config(settings: FinetuneSettings, problem: Problem, num_labels: int, labels: tuple[str, ...]) -> HeadConfig:
    """The configuration of a fresh head."""
    if settings.task == "structure":
        return HeadConfig("structure", labels=labels)
    return HeadConfig(
        settings.kind,
        problem,
        num_labels,
        labels,
        pooling=(settings.pooling or "mean") if settings.task == "sequence" else "pooler",
        transform=settings.transform,
        dropout=0.1 if settings.dropout is None else settings.dropout,
    )
