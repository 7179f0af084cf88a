"""The model as everything else uses it: load a checkpoint, give it sequences, get NumPy arrays.

Legend: S sequences, L tokens of one sequence (special tokens included), T packed tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.alphabet import Alphabet, Tokens
from model.checkpoint import LoadReport
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.errors import ModelError, SequenceError
from model.fill import Candidate, candidates
from model.identity import fingerprint
from model.packing import Batch, batches
from model.pooling import PooledWindows, Pooling, pool
from model.registry import Entry
from model.windows import Long, Windows, cut, join, mean_weights

DEFAULT_MAX_TOKENS = {"cpu": 8192, "cuda": 33792}
"""Tokens of one packed forward; on CUDA whole waves of 128-row tiles over 132 multiprocessors."""

Texts = Sequence[str | bytes]


@dataclass(frozen=True)
class Features:
    """What one pass over a list of sequences gives.

    Attributes:
        embeddings: (S, D) float32, one vector per sequence, in the order given.
        tokens: one (nucleotides, D) float32 array per sequence, special tokens excluded; None unless asked for.
    """

    embeddings: np.ndarray
    tokens: list[np.ndarray] | None


class Model:
    """A loaded checkpoint. Made by `model.load`.

    Every method that takes a list of sequences also takes
        long: what to do beyond the context (1022 nucleotides): "window" reads windows of 1022 with stride 511 (values
            of a nucleotide are averages over the windows that cover it, those of <cls> and <eos> over all windows),
            "truncate" reads the first 1022 nucleotides, "error" refuses.
        max_tokens: token budget of one packed forward; memory grows with it, results do not depend on it.
        accept_unknown: read a character outside the alphabet as <unk> instead of refusing it.
    and raises SequenceError, which names the sequence's place in the list, for one that cannot be used. Results are
    float32 whatever the type of computation, and in the order of the sequences.
    """

    def __init__(
        self,
        encoder: AidoRna,
        alphabet: Alphabet,
        *,
        name: str,
        folder: Path,
        report: LoadReport,
        entry: Entry | None,
        trained: bool | None,
    ) -> None:
        self._encoder = encoder
        self.config: AidoRnaConfig = encoder.config
        self.alphabet = alphabet
        self.name = name
        self.folder = folder
        self.report = report
        self.entry = entry
        self.trained = trained
        self.device = encoder.embedding.weight.device
        self.dtype = encoder.embedding.weight.dtype

    @property
    def module(self) -> AidoRna:
        """The torch module."""
        return self._encoder

    @property
    def has_pooler(self) -> bool:
        """Whether `pooler_output` can be had."""
        return self._encoder.pooler is not None

    @property
    def has_lm_head(self) -> bool:
        """Whether `logits`, `loss` and `fill_mask` can be had."""
        return self._encoder.lm_head is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, vocabulary and configuration, see `model.fingerprint`. Reads the files once."""
        return fingerprint(self.folder)

    def features(
        self,
        seqs: Texts,
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        per_token: bool = False,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> Features:
        """Embeddings, and on request the states of every nucleotide, in one pass.

        Args:
            seqs: sequences.
            pooling: "mean" over nucleotides (special tokens excluded; a <mask> stands for a nucleotide and counts),
                "cls", or "max" over nucleotides.
            layer: which hidden state, 0 (embedding) to num_layers; -1 and num_layers are the final-normed one.
            per_token: also return the states of every nucleotide.
            long, max_tokens, accept_unknown: see the class.

        Raises:
            SequenceError: a sequence that cannot be read, or an empty one where pooling is over nucleotides.
        """
        if pooling not in ("mean", "cls", "max"):
            raise ModelError(f"pooling is mean, cls or max, not {pooling!r}")
        layer = self._layer(layer)
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        if pooling != "cls" and len(empty := np.flatnonzero(windows.kept == 0)):
            raise SequenceError(
                f"sequence {empty[0] + 1} of the list is empty, so there is nothing to take the {pooling} of",
                index=int(empty[0]),
            )
        pooled = PooledWindows(windows, pooling, self.config.hidden_size)
        weights = mean_weights(windows) if pooling == "mean" else []
        parts: list[np.ndarray] = [np.empty(0)] * len(windows)
        with torch.inference_mode():
            for batch in self._batches(tokens, windows, max_tokens):
                hidden = self._encoder(batch.ids, batch.layout, layer).float()
                weight = np.concatenate([weights[w] for w in batch.windows.tolist()]) if weights else None
                on_device = None if weight is None else torch.from_numpy(weight).to(self.device)
                pooled.add(batch.windows, _numpy(pool(hidden, batch.layout, pooling, on_device)))
                if per_token:
                    _scatter(parts, batch, _numpy(hidden))
        states = [row[1:-1] for row in _joined(parts, windows)] if per_token else None
        return Features(pooled.values(), states)

    def embed(self, seqs: Texts, pooling: Pooling = "mean", layer: int = -1, **options: Any) -> np.ndarray:
        """(S, D) float32: one vector per sequence, see `features`."""
        return self.features(seqs, pooling=pooling, layer=layer, **options).embeddings

    def encode(
        self,
        seqs: Texts,
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> list[np.ndarray]:
        """Last hidden state of every sequence, (nucleotides + 2, D) float32, special tokens included."""
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        return self._rows(tokens, windows, max_tokens, lambda batch: self._encoder(batch.ids, batch.layout))

    def hidden_states(
        self,
        seqs: Texts,
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> list[np.ndarray]:
        """All states of every sequence, (num_layers + 1, nucleotides + 2, D) float32.

        State 0 is the embedding, 1 to num_layers - 1 the residual stream after that many layers, the last one is the
        final-normed output.
        """
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        return self._rows(
            tokens,
            windows,
            max_tokens,
            lambda batch: torch.stack(list(self._encoder.states(batch.ids, batch.layout))),
        )

    def logits(
        self,
        seqs: Texts,
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> list[np.ndarray]:
        """Masked-LM scores of every sequence, (nucleotides + 2, V) float32.

        Raises:
            ModelError: the checkpoint has no LM head.
        """
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        return self._logits(tokens, windows, max_tokens)

    def loss(
        self,
        seqs: Texts,
        labels: np.ndarray | Sequence[Any],
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> float:
        """Mean cross entropy of the masked LM over the labelled tokens of all sequences.

        Args:
            seqs: sequences, with <mask> where something is hidden.
            labels: one row of token ids per sequence, special tokens included, -100 where nothing is asked; rows may
                be padded with -100 to one length (S, L).
            long, max_tokens, accept_unknown: see the class.

        Raises:
            ModelError: rows do not fit the sequences, or no token is labelled.
        """
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        if len(labels) != len(tokens):
            raise ModelError(f"{len(labels)} rows of labels for {len(tokens)} sequences")
        rows = [self._fit_labels(np.asarray(row), tokens, windows, i) for i, row in enumerate(labels)]
        if not any((row >= 0).any() for row in rows):
            raise ModelError("no token is labelled (all are -100), so there is no loss")
        logits = np.concatenate(self._logits(tokens, windows, max_tokens))
        targets = torch.from_numpy(np.concatenate(rows).astype(np.int64))
        return float(F.cross_entropy(torch.from_numpy(logits), targets, ignore_index=-100))

    def pooler_output(
        self,
        seqs: Texts,
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> np.ndarray:
        """(S, D) float32: tanh(Linear(state of <cls>)); averaged over windows where there are several.

        Raises:
            ModelError: the checkpoint has no pooler. It is not made up: a random one would mean nothing.
        """
        pooler = self._encoder.pooler
        if pooler is None:
            raise ModelError(
                f"{self.name} has no pooler, and a random one would mean nothing; "
                "use embed() with pooling='mean' or 'cls'"
            )
        tokens, windows = self._prepare(seqs, long, accept_unknown)
        pooled = PooledWindows(windows, "cls", self.config.hidden_size)
        with torch.inference_mode():
            for batch in self._batches(tokens, windows, max_tokens):
                cls = pool(self._encoder(batch.ids, batch.layout), batch.layout, "cls", None)
                pooled.add(batch.windows, _numpy(pooler(cls)))
        return pooled.values()

    def fill_mask(
        self,
        seq: str | bytes | Texts,
        top_k: int = 5,
        *,
        long: Long = "window",
        max_tokens: int | None = None,
        accept_unknown: bool = False,
    ) -> list[Any]:
        """The likeliest tokens for every `<mask>`.

        Returns:
            For one text with one mask `top_k` dictionaries (score, token, token_str, sequence), best first; with
            several masks a list of such lists; for a list of texts a list of these answers. Scores are over all
            tokens, so ambiguity letters take their part: renormalise over A, C, G and U for a nucleotide's odds.

        Raises:
            ModelError: a text has no mask, or the checkpoint has no LM head.
        """
        if not isinstance(top_k, int) or top_k < 1:
            raise ModelError(f"top_k must be a whole number above 0, not {top_k!r}")
        several = not isinstance(seq, str | bytes)
        texts: Texts = seq if several else [seq]  # type: ignore[assignment, list-item]
        tokens, windows = self._prepare(texts, long, accept_unknown)
        ids = [_kept_ids(tokens, windows, i) for i in range(len(tokens))]
        for i, row in enumerate(ids):
            if not (row == self.alphabet.id["<mask>"]).any():
                raise SequenceError(
                    f"sequence {i + 1} of the list has no <mask> to fill in (within what is read of it)",
                    index=i,
                )
        answers: list[Any] = []
        for row, logits in zip(ids, self._logits(tokens, windows, max_tokens), strict=True):
            found: list[list[Candidate]] = candidates(row, logits, self.alphabet, top_k)
            answers.append(found[0] if len(found) == 1 else found)
        return answers if several else answers[0]

    def _prepare(self, seqs: Texts, long: Long, accept_unknown: bool) -> tuple[Tokens, Windows]:
        tokens = self.alphabet.encode(seqs, accept_unknown=accept_unknown)
        return tokens, cut(tokens.lengths, size=self.config.context, long=long)

    def _batches(self, tokens: Tokens, windows: Windows, max_tokens: int | None) -> Iterator[Batch]:
        if max_tokens is None:
            max_tokens = DEFAULT_MAX_TOKENS[self.device.type]
        if max_tokens < 1:
            raise ModelError(f"max_tokens must be above 0, not {max_tokens}")
        return batches(tokens, windows, self.alphabet, max_tokens=max_tokens, device=self.device)

    def _rows(
        self, tokens: Tokens, windows: Windows, max_tokens: int | None, compute: Callable[[Batch], Tensor]
    ) -> list[np.ndarray]:
        """`compute` gives (..., T, D) for a batch; returns (..., L, D) float32 for each sequence."""
        parts: list[np.ndarray] = [np.empty(0)] * len(windows)
        with torch.inference_mode():
            for batch in self._batches(tokens, windows, max_tokens):
                _scatter(parts, batch, _numpy(compute(batch)))
        return _joined(parts, windows)

    def _logits(self, tokens: Tokens, windows: Windows, max_tokens: int | None) -> list[np.ndarray]:
        if not self.has_lm_head:
            raise ModelError(f"{self.name} has no masked-LM head, so it cannot score or fill in letters")
        return self._rows(
            tokens,
            windows,
            max_tokens,
            lambda batch: self._encoder.logits(self._encoder(batch.ids, batch.layout)),
        )

    def _fit_labels(self, row: np.ndarray, tokens: Tokens, windows: Windows, index: int) -> np.ndarray:
        whole, kept = int(tokens.lengths[index]) + 2, int(windows.kept[index]) + 2
        if row.ndim != 1 or len(row) < whole or (row[whole:] != -100).any():
            raise ModelError(
                f"the labels of sequence {index + 1} of the list do not fit its {whole} tokens (special tokens "
                "included; beyond them only -100 may stand)"
            )
        if (
            not np.issubdtype(row.dtype, np.integer)
            or ((row != -100) & ((row < 0) | (row >= len(self.alphabet)))).any()
        ):
            raise ModelError(f"the labels of sequence {index + 1} of the list must be token ids or -100")
        return np.concatenate([row[: kept - 1], row[whole - 1 : whole]])

    def _layer(self, layer: int) -> int:
        top = self.config.num_layers
        if not isinstance(layer, int) or not -1 <= layer <= top:
            raise ModelError(f"layer must be 0 (embedding) to {top} (last), or -1 for the last, not {layer!r}")
        return layer


def _numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def _scatter(parts: list[np.ndarray], batch: Batch, values: np.ndarray) -> None:
    """Give every window of a batch its own rows of `values` (..., T, D)."""
    start = 0
    for window, length in zip(batch.windows.tolist(), batch.layout.lengths, strict=True):
        # A copy: a view would keep the whole batch in memory for as long as one sequence of it lives.
        parts[window] = values[..., start : start + length, :].copy()
        start += length


def _joined(parts: list[np.ndarray], windows: Windows) -> list[np.ndarray]:
    stops = np.cumsum(windows.count)
    return [
        join(parts[stop - count : stop], windows.start[stop - count : stop], kept)
        for stop, count, kept in zip(stops.tolist(), windows.count.tolist(), windows.kept.tolist(), strict=True)
    ]


def _kept_ids(tokens: Tokens, windows: Windows, index: int) -> np.ndarray:
    row = tokens[index]
    return np.concatenate([row[: int(windows.kept[index]) + 1], row[-1:]])
