"""The model as everything else uses it: load a checkpoint, give it sequences, get NumPy arrays.

Legend: S sequences, L nucleotides of one sequence, D hidden size, N attention heads, V vocabulary, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import torch

from model.checkpoint import save_checkpoint
from model.errors import ModelError
from model.head_config import HeadConfig
from model.head_files import MASKED_LM, HeadFile
from model.head_loss import HeadLoss, masked_lm_loss
from model.head_runs import HeadRun, Reduce, refuse_empty
from model.headset import HeadSet
from model.masked_lm import MaskedLm
from model.passes import Pooled, Reading, Rows, run
from model.pooling import Pooling
from model.predictions import Decision, Prediction
from model.trunk import Options, Texts


@dataclass(frozen=True)
class Features:
    """What one pass over a list of sequences gives.

    Attributes:
        embeddings: (S, D) float32, one vector per sequence, in the order given; (0, D) where none were asked for.
        tokens: one (L, D) float32 array per sequence, special tokens excluded; None unless asked for.
        predictions: for each head that was asked for one prediction per sequence, see `model.predictions`.
    """

    embeddings: np.ndarray
    tokens: list[np.ndarray] | None
    predictions: dict[str, list[Any]] = field(default_factory=dict)


class Model(MaskedLm):
    """A loaded checkpoint. Made by `model.load`.

    Every method that takes a list of sequences also takes
        long: what to do beyond the context (1022 nucleotides): "window" reads windows of 1022 with stride 511 (values
            of a nucleotide are averages over the windows that cover it, those of <cls> and <eos> over all windows),
            "truncate" reads the first 1022 nucleotides, "error" refuses.
        max_tokens: token budget of one packed forward; memory grows with it, results do not depend on it.
        accept_unknown: read a character outside the alphabet as <unk> instead of refusing it.
    and raises SequenceError, which names the sequence's place in the list, for one that cannot be used. Results are
    float32 whatever the type of computation, and in the order of the sequences.

    A task head is called by its kind ("sequence", "token", "contact", "structure") where it is part of the checkpoint,
    and by its file's name where it is an adapter (`heads/<name>.safetensors` in the checkpoint's folder, or one given
    to `load_head`). The masked-LM head is called "masked_lm".
    """

    @cached_property
    def _heads(self) -> HeadSet:
        return HeadSet(self.folder, self.config.hidden_size, self.device, lambda: self.fingerprint)

    @property
    def heads(self) -> Mapping[str, HeadFile]:
        """The task heads by name.

        Raises:
            CheckpointError: an adapter beside the checkpoint is damaged.
        """
        return MappingProxyType(self._heads.files())

    def head_module(self, name: str) -> torch.nn.Module:
        """The torch module of a task head, float32, in evaluation mode."""
        return self._heads.module(name)

    def load_head(self, path: str | Path) -> str:
        """Take a head out of an adapter file; it takes the place of one of that name that the checkpoint came with.

        Returns:
            The head's name: that of the file, without `.safetensors`; of a head that is loaded already its own.

        Raises:
            CheckpointError: no such file, a damaged one, or one that was trained on another trunk.
            ModelError: another head of that name was loaded or added before.
        """
        return self._heads.load(path)

    def add_head(self, name: str, config: HeadConfig, *, seed: int = 0) -> None:
        """Make a fresh head with random weights, to be trained.

        `loss` takes it at once; `logits` and `predict` refuse it until it was saved as trained.
        """
        self._heads.add(name, config, seed)

    def save_head(self, name: str, path: str | Path | None = None, *, trained: bool) -> Path:
        """Write a head into a file of its own, so that one trunk serves many heads.

        Args:
            name: which head.
            path: the file, NAME.safetensors; by default `heads/<name>.safetensors` in the checkpoint's folder, where
                `load` finds it by itself.
            trained: whether its results mean something by now; heads that were not trained are refused where results
                are asked for.

        Returns:
            The file.
        """
        return self._heads.save(name, path, trained)

    def save(self, folder: str | Path, heads: Sequence[str] | None = None) -> None:
        """Write trunk, pooler, LM head and task heads as one checkpoint in multimolecule's layout.

        multimolecule itself reads the first of `heads`; of a sequence head it knows only the pooler as input, so one
        that reads means or <cls> gives other values there.

        Args:
            folder: to be made.
            heads: which task heads to write into it, at most one of each kind; by default those that were read from the
                checkpoint itself. Other heads are not copied: an adapter is a file, and fits its own trunk only.

        Raises:
            CheckpointError: the folder holds something already, or cannot be written.
            ModelError: no such head, or two of one kind.
        """
        chosen = {name: self._heads.file(name) for name in (self._heads.own if heads is None else heads)}
        modules = {name: self._heads.module(name) for name in chosen}
        about = {"source": self.name, **({} if self.trained is None else {"trained": self.trained})}
        save_checkpoint(Path(folder), self._encoder, self.alphabet, chosen, modules, about=about)

    def features(
        self,
        seqs: Texts,
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        embeddings: bool = True,
        per_token: bool = False,
        heads: str | Sequence[str] = (),
        threshold: float | None = None,
        pseudoknots: bool = False,
        dense: bool = False,
        **options: Unpack[Options],
    ) -> Features:
        """Embeddings, states of every nucleotide, and predictions of heads, all in one pass of the trunk.

        Args:
            seqs: sequences.
            pooling: "mean" over nucleotides (special tokens excluded; a <mask> stands for a nucleotide and counts),
                "cls", or "max" over nucleotides.
            layer: which hidden state, 0 (embedding) to num_layers; -1 and num_layers are the final-normed one.
            embeddings: whether to make embeddings at all.
            per_token: also return the states of every nucleotide.
            heads: also return the predictions of these heads, which read the last state whatever `layer` is.
            threshold, pseudoknots, dense: see `predict`.
            options: see the class.

        Raises:
            SequenceError: a sequence that cannot be read, or an empty one where there is nothing to pool or predict.
            ModelError: no such layer or head; a head that was never trained, or whose problem nobody knows.
        """
        if pooling not in ("mean", "cls", "max"):
            raise ModelError(f"pooling is mean, cls or max, not {pooling!r}")
        layer = self._layer(layer)
        decisions = [
            Decision(name, self._heads.trained(name).config, threshold, pseudoknots, dense)
            for name in dict.fromkeys([heads] if isinstance(heads, str) else heads)
        ]
        reading = self._read(seqs, **options)
        if embeddings and pooling != "cls":
            refuse_empty(reading, f"there is nothing to take the {pooling} of")
        width = self.config.hidden_size
        pooled = Pooled(reading.windows, layer, pooling, width) if embeddings else None
        tokens = Rows(reading.windows, layer) if per_token else None
        runs = [
            self._head_run(decision.name, reading, lambda i, x, d=decision: d.predict(x, reading.kept_text(i)))
            for decision in decisions
        ]
        consumers = [c for c in (pooled, tokens) if c is not None] + [head.consumer for head in runs]
        if consumers:
            run(self._encoder, reading, consumers)
        return Features(
            np.zeros((0, width), np.float32) if pooled is None else pooled.values(),
            None if tokens is None else [rows[1:-1] for rows in tokens.values()],
            {decision.name: head.values() for decision, head in zip(decisions, runs, strict=True)},
        )

    def embed(self, seqs: Texts, pooling: Pooling = "mean", layer: int = -1, **options: Unpack[Options]) -> np.ndarray:
        """(S, D) float32: one vector per sequence, see `features`."""
        return self.features(seqs, pooling=pooling, layer=layer, **options).embeddings

    def embed_each(
        self, seqs: Texts, which: Sequence[tuple[Pooling, int]], **options: Unpack[Options]
    ) -> list[np.ndarray]:
        """(S, D) float32 for each (pooling, layer) of `which`, all in one pass of the trunk; see `features`."""
        for pooling, _ in which:
            if pooling not in ("mean", "cls", "max"):
                raise ModelError(f"pooling is mean, cls or max, not {pooling!r}")
        layers = [self._layer(layer) for _, layer in which]
        reading = self._read(seqs, **options)
        refuse_empty(reading, "there is nothing to pool")
        width = self.config.hidden_size
        pools = [Pooled(reading.windows, layer, kind, width) for (kind, _), layer in zip(which, layers, strict=True)]
        if pools:
            run(self._encoder, reading, pools)
        return [pooled.values() for pooled in pools]

    def logits(self, seqs: Texts, *, head: str | None = None, **options: Unpack[Options]) -> list[np.ndarray]:
        """What a head gives for every sequence before it is turned into words, float32.

        Args:
            seqs: sequences.
            head: which; by default the task head that is part of the checkpoint, else the masked LM.
            options: see the class.

        Returns:
            One array per sequence: (C,) of a sequence head, (L, C) of a token head, (L, L, C) of a contact head,
            (L, L) of a structure head, (L + 2, V) of the masked LM, special tokens included. In sequences that are read
            in windows, pairs that no window covers have -inf.

        Raises:
            ModelError: the checkpoint has no such head, several of its own, or one that was never trained.
        """
        name = self._default_head() if head is None else head
        if name == MASKED_LM:
            return self._lm_logits(self._read(seqs, **options))
        self._heads.trained(name)
        return self._run_head(name, self._read(seqs, **options), lambda _, logits: logits)

    def loss(self, seqs: Texts, labels: Any, *, head: str | None = None, **options: Unpack[Options]) -> float:
        """Mean loss of a head over everything that is labelled in all sequences; a number, without gradients.

        Mean squared error for regression, binary cross entropy for binary and multilabel, cross entropy for multiclass
        and the masked LM. Entries of -100 (NaN for regression) are not asked for and do not count; there is no padding
        that could. (In the reference padding counts, and only cross entropy can leave entries out.) Neither do pairs
        that no window covers: the model does not read them together.

        Args:
            seqs: sequences; for the masked LM with <mask> where something is hidden.
            labels: one entry per sequence, or the entry alone where there is one sequence; NumPy, torch or lists.
                Sequence head: a number, or (C,) where each of the C outputs has its own. Token head: (L,), or (L, C).
                Contact head: (L, L) or (L, L, C). Structure head: (L, L). Rows may be padded with -100 or NaN to one
                length. Masked LM: (L + 2,) token ids, special tokens included.
            head: as in `logits`; one that was never trained is fine.
            options: see the class.

        Raises:
            ModelError: labels do not fit the sequences or the head, or nothing is labelled.
        """
        name = self._default_head() if head is None else head
        reading = self._read(seqs, **options)
        if name == MASKED_LM:
            return masked_lm_loss(self._lm_logits(reading), labels, reading)
        loss = HeadLoss(self._heads.file(name).config, labels, reading)
        return loss.mean(self._run_head(name, reading, loss.terms))

    def predict(
        self,
        seqs: Texts,
        heads: str | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        pseudoknots: bool = False,
        dense: bool = True,
        **options: Unpack[Options],
    ) -> dict[str, list[Prediction]]:
        """Probabilities, classes, values or structures, with the labels' names; one pass of the trunk for all heads.

        Args:
            seqs: sequences.
            heads: which; by default the task head that is part of the checkpoint.
            threshold: probability above which something is said to be so; by default the head's own, else 0.5.
            pseudoknots: let a structure have crossing pairs.
            dense: keep the whole map of a contact or structure head, (L, L) numbers for each sequence.
            options: see the class.

        Returns:
            By head, in the order of the sequences: SequencePrediction, TokenPrediction or ContactPrediction, see
            `model.predictions`.

        Raises:
            ModelError: no such head, one that was never trained, or whose problem nobody knows.
        """
        if heads is None:
            heads = self._default_head()
        names = [heads] if isinstance(heads, str) else list(heads)
        if not names:
            raise ModelError("name the heads that shall predict")
        if MASKED_LM in names:
            raise ModelError("the masked LM predicts letters: ask fill_mask, variants or pseudo_log_likelihood")
        options_: dict[str, Any] = {"threshold": threshold, "pseudoknots": pseudoknots, "dense": dense, **options}
        return self.features(seqs, embeddings=False, heads=names, **options_).predictions

    def _head_run(self, name: str, reading: Reading, reduce: Reduce) -> HeadRun:
        config, module = self._heads.file(name).config, self._heads.module(name)
        return HeadRun(name, config, module, self._encoder, reading, reduce)

    def _run_head(self, name: str, reading: Reading, reduce: Reduce) -> list[Any]:
        head = self._head_run(name, reading, reduce)
        run(self._encoder, reading, [head.consumer])
        return head.values()

    def _default_head(self) -> str:
        own = self._heads.own
        if len(own) > 1:
            raise ModelError(f"{self.name} has the heads {', '.join(own)}: say which is meant")
        if not own and not self.has_lm_head:
            others = [name for name in self._heads.names if name not in own]
            hint = f"name one of its adapters: {', '.join(others)}" if others else "load one with load_head"
            raise ModelError(f"{self.name} has neither a task head nor a masked-LM head of its own; {hint}")
        return own[0] if own else MASKED_LM

    def _layer(self, layer: int) -> int:
        top = self.config.num_layers
        if not isinstance(layer, int) or not -1 <= layer <= top:
            raise ModelError(f"layer must be 0 (embedding) to {top} (last), or -1 for the last, not {layer!r}")
        return layer % (top + 1)
