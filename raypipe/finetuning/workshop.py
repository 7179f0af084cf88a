"""Model, head and learner of a task, put together for training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model import Model, load
from model.adapters import load_head
from model.head_config import HeadConfig
from model.heads import LinearHead, make_head
from model.identity import checkpoint_folder
from model.loading import DTYPES
from model.lora import LoraConfig, add_lora
from model.structure_head import StructureHead
from model.training import set_dropout
from raypipe.errors import UsageError
from raypipe.finetuning.batching import epoch_batches
from raypipe.finetuning.cache import CachedFeed, cached_bytes, fits
from raypipe.finetuning.feeds import Feed, FrozenFeed, TrainedFeed
from raypipe.finetuning.learners import Learner, PairLearner, RowLearner, set_prior
from raypipe.finetuning.losses import Loss, Scale, class_weights
from raypipe.finetuning.scoring import measure_learner
from raypipe.finetuning.settings import head_config
from raypipe.finetuning.state import Standing, fixed_tensors
from raypipe.finetuning.training import Course, train, trained_weights
from raypipe.finetuning.whitening import AT_LEAST, WhitenedFeed, Whitening, can_be_whitened

if TYPE_CHECKING:
    from raypipe.finetuning.job import Task


class Workshop:
    """Everything that learns.

    Args:
        task: what to.

    Attributes:
        model: the checkpoint, float32 where its trunk is trained.
        config: of the head; its threshold is set by `finish`.
        head: the module.
        lora: what the trunk was wrapped with, or None.
        dtype: of the trunk's computation.
        cached: whether what a frozen trunk gives is computed once, in which case states of nucleotides are float16.
    """

    def __init__(self, task: Task) -> None:
        settings, space = task.settings, task.examples.space
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        # What the head learns on stays the same on whatever machine the run goes on.
        dtype = task.folder.once("dtype", settings.dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
        begun = task.folder.once("device", torch.device(device).type)
        if not device.startswith(begun):
            task.say(f"goes on on {device}, was begun on {begun}: sums are rounded, and dropout falls, in another way")
        self.dtype, self.cached = dtype, False
        frozen = settings.method == "frozen"
        self._task = task
        self.model: Model = load(task.checkpoint.path, device=device, dtype=dtype if frozen else "float32")
        self.config: HeadConfig = (
            head_config(settings, space.problem, space.num_labels, space.names)
            if task.start is None
            else _with_dropout(task.start.config, settings.dropout)
        )
        if self.config.pooling == "pooler" and self.config.kind == "sequence" and not self.model.has_pooler:
            raise UsageError(f"--pooling pooler: {task.checkpoint.name} has no pooler; take mean, max or cls")
        torch.manual_seed(settings.seed)
        self.head: nn.Module = make_head(self.config, self.model.config.hidden_size).to(self.model.device)
        if task.start is not None:
            folder = checkpoint_folder(task.checkpoint.path)
            found = load_head(task.start, folder, self.model.config.hidden_size, self.model.device)
            self.head.load_state_dict(found.state_dict())
        if isinstance(self.head, StructureHead):
            self.head.learning_dtype = DTYPES[settings.head_dtype]
        self.lora: LoraConfig | None = None
        self._modules = {"head": self.head} | ({} if frozen else {"trunk": self._thaw()})
        if settings.whiten and not can_be_whitened(self.head):
            raise UsageError("--whiten: the head of --start multiplies states as they are; leave it out")
        self._scale = self._make_scale()
        # What can be refused is made before the trunk reads everything.
        weights = self._class_weights()
        feed = self._make_feed(frozen, dtype)
        self._whitening = self._make_whitening(feed)
        whitened = feed if self._whitening is None else WhitenedFeed(feed, self._whitening)
        self._learner = self._make_learner(whitened, weights)

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for module in self._modules.values() for p in module.parameters() if p.requires_grad)

    def train(self) -> Standing:
        """Train; then the head holds the best weights, in the units of the labels.

        Raises:
            UsageError: there is nothing to finish.
            RaypipeError: see `training.train`.
        """
        task, settings, examples = self._task, self._task.settings, self._task.examples
        valid = examples.part("valid")
        threshold = settings.threshold if isinstance(settings.threshold, float) else None

        def measure() -> dict[str, Any]:
            return measure_learner(self._learner, examples, valid, settings.tokens, threshold).figures

        course = Course(
            learner=self._learner,
            modules=self._modules,
            weights=trained_weights(self._modules.items()),
            fixed={} if self._whitening is None else self._whitening.tensors(),
            settings=settings,
            metric=task.metric,
            places=examples.part("train"),
            lengths=examples.lengths,
            ids=examples.ids,
            measure=measure if len(valid) else None,
            folder=task.folder.state,
            say=task.say,
        )
        standing = train(course)
        if not standing.best_epoch and task.start is None:
            raise UsageError("nothing is trained yet, so there is no head to write; leave out --finish")
        self.config = replace(self.config, threshold=self._threshold(valid))
        if self._scale is not None:
            assert isinstance(self.head, LinearHead)
            self._scale.fold(self.head.decoder)
        if self._whitening is not None:
            self._whitening.fold(self.head)
        return standing

    def _thaw(self) -> nn.Module:
        """The trunk, ready to be trained."""
        settings, trunk = self._task.settings, self.model.module
        if settings.method == "lora":
            self.lora = LoraConfig(
                settings.lora_rank, settings.lora_alpha, settings.lora_dropout, tuple(settings.lora_targets)
            )
            add_lora(trunk, self.lora, settings.seed)
        else:
            trunk.requires_grad_(True)
        if trunk.lm_head is not None:
            trunk.lm_head.requires_grad_(False)
        set_dropout(trunk, settings.trunk_dropout, 0.0)
        trunk.checkpoint_activations = settings.checkpoint_activations
        return trunk

    def _make_feed(self, frozen: bool, dtype: str) -> Feed:
        task, texts = self._task, self._task.examples.sequences
        if not frozen:
            return TrainedFeed(self.model, self.config, texts, DTYPES[dtype])
        feed = FrozenFeed(self.model, self.config, texts)
        context, width = self.model.config.context, self.model.config.hidden_size
        size = cached_bytes(self.config.kind, task.examples.lengths, context, width)
        self.cached = task.folder.once("cached", fits(size, task.folder.state, task.settings.cache_gib))
        if self.cached:
            return CachedFeed(feed, task.folder.state, task.say)
        task.say(
            f"what the trunk gives takes {size / 2**30:.1f} GiB, more than --cache-gib or the disk: run each epoch"
        )
        return feed

    def _make_whitening(self, feed: Feed) -> Whitening | None:
        """Of the trunk as it is at first. The weights of a run that goes on are of the whitening that it began with."""
        task, settings = self._task, self._task.settings
        train = task.examples.part("train")
        if settings.whiten is False or not settings.epochs or not len(train) or not can_be_whitened(self.head):
            return None
        fixed = fixed_tensors(task.folder.state)
        if fixed is None:
            batches = epoch_batches(train, task.examples.lengths, settings.tokens, seed=settings.seed, epoch=0)
            at_least = 0.0 if settings.method == "frozen" and not settings.pairs else AT_LEAST
            with torch.no_grad():
                found = Whitening.of(map(feed, batches), at_least)
        else:
            found = Whitening.from_tensors(fixed)
        if task.start is not None:
            found.unfold(self.head)
        return found.to(self.model.device)

    def _make_scale(self) -> Scale | None:
        task = self._task
        train = task.examples.part("train")
        if self.config.problem != "regression" or self.config.act or not self.config.bias or not len(train):
            return None
        scale = Scale.of((task.examples.labels[place] for place in train), self.config.num_labels)
        if task.start is not None:
            assert isinstance(self.head, LinearHead)
            scale.unfold(self.head.decoder)
        return scale

    def _class_weights(self) -> Tensor | None:
        examples = self._task.examples
        if self._task.settings.pairs:
            return None
        labels = [examples.labels[place] for place in examples.part("train")]
        weights = class_weights(examples.space, labels, self._task.settings.class_weights)
        return None if weights is None else torch.tensor(weights, device=self.model.device)

    def _make_learner(self, feed: Feed, weights: Tensor | None) -> Learner:
        task, examples = self._task, self._task.examples
        if task.settings.pairs:
            if task.start is None and len(examples.part("train")):
                set_prior(self.head, examples)
            return PairLearner(self.head, feed, examples, task.settings.positive_weight)
        return RowLearner(self.head, feed, examples, Loss(examples.space.problem, weights), self._scale)

    def _threshold(self, valid: Any) -> float | None:
        """What the head shall say yes above; None where it does not say yes or no."""
        settings, space = self._task.settings, self._task.examples.space
        if space.problem not in ("binary", "multilabel"):
            return None
        if isinstance(settings.threshold, float):
            return settings.threshold
        if settings.threshold is None and (not settings.pairs or self._task.start is not None):
            return self.config.threshold
        if not len(valid):
            return None
        found = measure_learner(self._learner, self._task.examples, valid, settings.tokens, None)
        return found.best_threshold(space)


def _with_dropout(config: HeadConfig, dropout: float | None) -> HeadConfig:
    return config if dropout is None else replace(config, dropout=dropout)
