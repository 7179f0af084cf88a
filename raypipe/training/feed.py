"""The batches of one worker, step by step; every batch follows from the settings, the corpus and its number."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np

from model.alphabet import Alphabet
from raypipe.errors import UsageError
from raypipe.training.batches import Packed, Packer
from raypipe.training.corpus import LEFT_OUT, TRAIN, VALID, Corpus
from raypipe.training.draws import Drawn, Epochs, Families, Reader
from raypipe.training.settings import PretrainSettings


class StepMaker:
    """Makes the batches of any step.

    Args:
        corpus: what is read.
        alphabet: of the model.
        settings: how many of each.
        context: nucleotides that the model reads at a time.
        rank, world: which worker, of how many. Each has its own batches: of the masked LM those that a single worker
            would read one after another, and its own contrastive batch.

    Raises:
        UsageError: contrastive learning has nothing to draw.
    """

    def __init__(
        self,
        corpus: Corpus,
        alphabet: Alphabet,
        settings: PretrainSettings,
        context: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._settings, self._rank, self._world = settings, rank, world
        self._packer = Packer(corpus, alphabet, settings, context)
        self._corpus, self._alphabet, self._context = corpus, alphabet, context
        epochs = Epochs(corpus, settings.batch_tokens, context, settings.seed)
        self._reader = Reader(epochs)
        self._masked = self._reader if settings.mlm_weight else None
        self._families = Families(corpus, TRAIN, settings.seed) if settings.contrastive_weight else None
        if self._families is not None and not len(self._families) and not settings.singles:
            raise UsageError(
                "contrastive learning: no sequence to train on has a family in family_column, and singles is 0"
            )

    @cached_property
    def steps(self) -> int:
        """Of the whole run."""
        told = self._settings
        return told.steps or max(1, self._reader.count(told.epochs) // (told.accumulate * self._world))

    def make(self, step: int) -> list[Packed]:
        """The batches of a step."""
        told = self._settings
        batches: list[Packed] = []
        if self._masked is not None:
            for i in range(told.accumulate):
                number = (step * told.accumulate + i) * self._world + self._rank
                batches.append(self._packer.plain(self._masked[number], number))
        if self._families is not None:
            batches.append(self._packer.views(self._draw(self._families, step * self._world + self._rank)))
        return batches

    def epoch(self, step: int) -> float | None:
        """Epochs of the masked LM before a step."""
        if self._masked is None:
            return None
        return self._masked.epoch_of(step * self._settings.accumulate * self._world)

    @cached_property
    def validation(self) -> list[Packed]:
        """Batches of the validation split, all workers' together; the same in every run, whatever its seed.

        They are drawn by the weights that are trained by. Of the contrastive loss there are some only where the split
        has families, and their views are not masked.
        """
        told = self._settings
        plain = told.model_copy(update={"seed": 0, "mask_views": 0.0})
        packer = Packer(self._corpus, self._alphabet, plain, self._context)
        batches: list[Packed] = []
        if told.mlm_weight and ((self._corpus.part == VALID) & (self._corpus.weight > 0)).any():
            judged = replace(self._corpus, part=np.where(self._corpus.part == VALID, TRAIN, LEFT_OUT))
            chosen = Epochs(judged, told.batch_tokens, self._context, 0).batches(0)[: told.valid_batches]
            batches += [packer.plain(rows, number) for number, rows in enumerate(chosen)]
        if told.contrastive_weight:
            families = Families(self._corpus, VALID, 0)
            if len(families):
                batches += [packer.views(self._draw(families, number)) for number in range(told.valid_batches)]
        return batches

    def _draw(self, families: Families, number: int) -> Drawn:
        told = self._settings
        return families.draw(
            number,
            groups=told.families,
            per_group=told.per_clan,
            per_family=told.per_family,
            singles=told.singles,
        )


def inline(maker: StepMaker, first: int) -> Iterator[list[Packed]]:
    """The batches of step `first` and all after it, made in a thread one step ahead."""
    with ThreadPoolExecutor(1, "batches") as thread:
        following = thread.submit(maker.make, first)
        for step in range(first + 1, maker.steps + 1):
            ready = following.result()
            if step < maker.steps:
                following = thread.submit(maker.make, step)
            yield ready
