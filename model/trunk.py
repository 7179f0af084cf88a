"""The trunk of a loaded checkpoint: from sequences to hidden states.

Legend: S sequences, L nucleotides of one sequence, D hidden size, N attention heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch

from model.alphabet import Alphabet
from model.attention import Recorder
from model.checkpoint import LoadReport
from model.config import AidoRnaConfig
from model.encoder import AidoRna
from model.errors import ModelError
from model.footprint import DEFAULT_MAX_TOKENS as DEFAULT_MAX_TOKENS
from model.identity import fingerprint
from model.passes import Pooled, Reading, Rows, run
from model.registry import Entry
from model.steps import PLAIN
from model.windows import Long, cut

Texts = Sequence[str | bytes]


class Options(TypedDict, total=False):
    """How sequences are read; see `model.Model`."""

    long: Long
    max_tokens: int | None
    accept_unknown: bool


class Trunk:
    """What every checkpoint can do; see `model.Model`.

    Attributes:
        device: where it computes.
        dtype: of its weights.
        float8: whether the products of all layers but two are computed in 8-bit floating point.
        compiled: whether full batches go through compiled layers.
        config, alphabet, name, folder, report, entry, trained: of the checkpoint.
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
        fill: bool = False,
    ) -> None:
        self._encoder = encoder
        self._fill = fill
        self.config: AidoRnaConfig = encoder.config
        self.alphabet = alphabet
        self.name = name
        self.folder = folder
        self.report = report
        self.entry = entry
        self.trained = trained
        self.device = encoder.embedding.weight.device
        self.dtype = encoder.embedding.weight.dtype
        self.float8 = encoder.float8 is not None
        self.compiled = encoder.fixed is not PLAIN

    @property
    def module(self) -> AidoRna:
        """The torch module of the trunk, its pooler and its LM head."""
        return self._encoder

    @property
    def has_pooler(self) -> bool:
        """Whether `pooler_output` can be had."""
        return self._encoder.pooler is not None

    @property
    def has_lm_head(self) -> bool:
        """Whether the masked LM can be asked: `fill_mask`, `variants` and their like."""
        return self._encoder.lm_head is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, vocabulary and configuration, see `model.fingerprint`. Reads the files once."""
        return fingerprint(self.folder)

    def encode(self, seqs: Texts, **options: Unpack[Options]) -> list[np.ndarray]:
        """Last hidden state of every sequence, (L + 2, D) float32, special tokens included."""
        reading = self._read(seqs, **options)
        rows = Rows(reading.windows, self.config.num_layers)
        run(self._encoder, reading, [rows])
        return rows.values()

    def hidden_states(self, seqs: Texts, **options: Unpack[Options]) -> list[np.ndarray]:
        """All states of every sequence, (num_layers + 1, L + 2, D) float32.

        State 0 is the embedding, 1 to num_layers - 1 the residual stream after that many layers, the last one is the
        final-normed output.
        """
        reading = self._read(seqs, **options)
        layers = [Rows(reading.windows, layer) for layer in range(self.config.num_layers + 1)]
        run(self._encoder, reading, layers)
        return [np.stack(states) for states in zip(*(rows.values() for rows in layers), strict=True)]

    def attentions(
        self, seqs: Texts, *, truncate: bool = False, max_tokens: int | None = None, accept_unknown: bool = False
    ) -> list[np.ndarray]:
        """Attention probabilities of every sequence, (num_layers, N, L + 2, L + 2) float32; [l, n, query, key].

        They take num_layers * N * (L + 2)² * 4 bytes: 2.8 GB for 1022 nucleotides in the 650M model.

        Args:
            seqs: sequences.
            truncate: read the first 1022 nucleotides of a longer one. Maps of several windows cannot be joined.
            max_tokens, accept_unknown: see the class.

        Raises:
            SequenceError: a sequence is longer than the context, and `truncate` was not asked for.
        """
        long: Long = "truncate" if truncate else "error"
        reading = self._read(seqs, long=long, max_tokens=max_tokens, accept_unknown=accept_unknown)
        reading = replace(reading, fill=False)  # whose maps nobody asks for
        maps: list[np.ndarray] = [np.empty(0)] * len(reading)
        with torch.inference_mode():
            for batch in reading.batches():
                lengths = batch.layout.lengths
                for window, length in zip(batch.windows.tolist(), lengths, strict=True):
                    shape = (self.config.num_layers, self.config.num_heads, length, length)
                    maps[window] = np.empty(shape, np.float32)
                recorder = Recorder()
                for layer, _ in enumerate(self._encoder.states(batch.ids, batch.layout, recorder)):
                    # State 0 stands before the first layer.
                    if layer:
                        for window, found in zip(batch.windows.tolist(), recorder.take(), strict=True):
                            maps[window][layer - 1] = found.numpy()
        return maps

    def pooler_output(self, seqs: Texts, **options: Unpack[Options]) -> np.ndarray:
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
        reading = self._read(seqs, **options)
        pooled = Pooled(reading.windows, self.config.num_layers, "cls", self.config.hidden_size, pooler)
        run(self._encoder, reading, [pooled])
        return pooled.values()

    def _read(
        self, seqs: Texts, *, long: Long = "window", max_tokens: int | None = None, accept_unknown: bool = False
    ) -> Reading:
        if max_tokens is None:
            max_tokens = DEFAULT_MAX_TOKENS[self.device.type]
        if max_tokens < 1:
            raise ModelError(f"max_tokens must be above 0, not {max_tokens}")
        tokens = self.alphabet.encode(seqs, accept_unknown=accept_unknown)
        windows = cut(tokens.lengths, size=self.config.context, long=long)
        return Reading(tokens, windows, self.alphabet, max_tokens, self.device, self._fill)
