"""One packed batch: sequences of the corpus, cropped or mutated, and masked.

Loads no torch: what makes batches for others need not have it.

Legend: S segments (sequences or views), T packed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.alphabet import Alphabet, Tokens
from model.masking import IGNORED, mask_tokens
from raypipe.training.corpus import Corpus
from raypipe.training.draws import PLAIN, Drawn
from raypipe.training.settings import PretrainSettings
from raypipe.training.views import view

if TYPE_CHECKING:
    import torch

    from model.packing import Layout


@dataclass(frozen=True)
class Packed:
    """What one forward pass reads.

    Attributes:
        rows: (S,) of the corpus, to name a batch that went wrong.
        ids: (T,) int64 tokens, masked.
        asked: (A,) int64 places in `ids` whose tokens the masked LM is asked for.
        labels: (A,) int64, the tokens that stood there.
        lengths: tokens of each segment, special tokens counted; longest first.
        family, group: (S,) int64 where the segments are views, else None.
    """

    rows: np.ndarray
    ids: np.ndarray
    asked: np.ndarray
    labels: np.ndarray
    lengths: tuple[int, ...]
    family: np.ndarray | None = None
    group: np.ndarray | None = None

    def layout(self, device: torch.device) -> Layout:
        """Where the segments lie."""
        from model.packing import Layout

        return Layout.of(list(self.lengths), device)


class Packer:
    """Makes batches.

    Args:
        corpus: gives the sequences.
        alphabet: of the model.
        settings: of masks and views.
        context: nucleotides that the model reads at a time.
    """

    def __init__(self, corpus: Corpus, alphabet: Alphabet, settings: PretrainSettings, context: int) -> None:
        self._corpus, self._alphabet, self._settings, self._context = corpus, alphabet, settings, context

    def plain(self, rows: np.ndarray, number: int) -> Packed:
        """Sequences for the masked LM; of one beyond the context a random stretch.

        Args:
            rows: of the corpus.
            number: of the batch; with the seed it decides stretches and masks.
        """
        rng = np.random.default_rng([self._settings.seed, PLAIN, number])
        pieces = [self._stretch(self._corpus[row], rng) for row in rows]
        return self._pack(rows, pieces, np.ones(len(rows), dtype=bool), rng)

    def views(self, drawn: Drawn) -> Packed:
        """Views for contrastive learning, some of them masked as well."""
        told, rng = self._settings, drawn.rng
        # Half of the context at most: insertions can double a view.
        pieces = [
            view(
                self._corpus[row],
                self._alphabet.nucleotides,
                rng,
                crop=told.crop,
                mutate=told.mutate,
                longest=min(told.view_length, self._context // 2),
            )
            for row in drawn.rows
        ]
        masked = rng.random(len(pieces)) < (told.mask_views if told.mlm_weight else 0.0)
        return self._pack(drawn.rows, pieces, masked, rng, drawn.family, drawn.group)

    def _stretch(self, sequence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        over = len(sequence) - self._context
        if over <= 0:
            return sequence
        start = int(rng.integers(0, over + 1))
        return sequence[start : start + self._context]

    def _pack(
        self,
        rows: np.ndarray,
        pieces: Sequence[np.ndarray],
        masked: np.ndarray,
        rng: np.random.Generator,
        family: np.ndarray | None = None,
        group: np.ndarray | None = None,
    ) -> Packed:
        # Segments of one length stand together: attention runs over them at once.
        order = np.argsort([-len(piece) for piece in pieces], kind="stable")
        lengths = np.array([len(pieces[i]) for i in order], dtype=np.int64) + 2
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.full(offsets[-1], self._alphabet.id["<cls>"], dtype=np.uint8)
        ids[offsets[1:] - 1] = self._alphabet.id["<eos>"]
        for place, i in enumerate(order):
            ids[offsets[place] + 1 : offsets[place + 1] - 1] = pieces[i]
        told = self._settings
        hidden, labels = mask_tokens(
            Tokens(ids, offsets),
            self._alphabet,
            rng,
            rate=told.mask_rate,
            mask=told.mask_share,
            random=told.random_share,
        )
        chosen = np.repeat(masked[order], lengths)
        asked = np.flatnonzero((labels != IGNORED) & chosen)
        return Packed(
            rows=rows[order],
            ids=np.where(chosen, hidden.ids, ids).astype(np.int64),
            asked=asked,
            labels=labels[asked],
            lengths=tuple(lengths.tolist()),
            family=None if family is None else family[order],
            group=None if group is None else group[order],
        )
