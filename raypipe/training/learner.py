"""The two objectives over one packed batch, as a module that data-parallel and sharded training can wrap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.contrastive import nearest_share, normalised, pool_mean, relation_loss
from model.encoder import AidoRna
from model.packing import Layout
from raypipe.training.batches import Packed
from raypipe.training.settings import PretrainSettings

Found = dict[str, Tensor | float]
"""Sums by name; tensors where a number would have to be waited for."""


class Learner(nn.Module):
    """Losses of an encoder.

    Args:
        encoder: with a masked-LM head where the masked LM is learned.
        nucleotides: (4,) ids of A, C, G and U, over which accuracy counts, on the encoder's device.
        settings: weights of the losses, temperature, precision.
    """

    def __init__(self, encoder: AidoRna, nucleotides: Tensor, settings: PretrainSettings) -> None:
        super().__init__()
        self.encoder = encoder
        # No buffer: data parallel training would send it around in every pass.
        self._nucleotides = nucleotides
        self._settings = settings

    def forward(self, batch: Packed, share: float = 1.0) -> tuple[Tensor, Found]:
        """The loss of one batch.

        Args:
            batch: sequences, or views of some.
            share: factor of its masked-LM loss, the part that its asked tokens have in those of the step.

        Returns:
            A float32 scalar to be differentiated, and detached sums to be added up over batches: `mlm` (cross entropy
            in nats) and `right` over `asked` tokens, of views by the names `view_mlm`, `view_right`, `view_asked`;
            `contrastive` and `nearest` over `views` batches.
        """
        told = self._settings
        device = self._nucleotides.device
        layout = batch.layout(device)
        sums: Found = {}
        losses: list[Tensor] = []
        with torch.autocast(device.type, torch.bfloat16, enabled=told.precision == "bfloat16"):
            hidden = last(self.encoder.states(torch.from_numpy(batch.ids).to(device), layout))
            if told.mlm_weight:
                losses.append(told.mlm_weight * share * self._masked_lm(hidden, batch, sums))
            if batch.family is not None and batch.group is not None:
                losses.append(told.contrastive_weight * self._contrastive(hidden, batch, layout, sums))
        return torch.stack(losses).sum(), sums

    def _masked_lm(self, hidden: Tensor, batch: Packed, sums: Found) -> Tensor:
        """Mean cross entropy over the vocabulary at the asked places; 0 where none is asked for."""
        places = torch.from_numpy(batch.asked).to(hidden.device)
        labels = torch.from_numpy(batch.labels).to(hidden.device)
        # `index_select`: the gradient of indexing by a tensor is several times slower.
        logits = self.encoder.logits(hidden.index_select(0, places)).float()
        if not len(labels):
            # Every weight takes part in every batch: data-parallel workers wait for each other's gradients.
            return logits.sum()
        loss = F.cross_entropy(logits, labels)
        with torch.no_grad():
            guess = self._nucleotides[logits[:, self._nucleotides].argmax(1)]
            # Apart: views are mutated, and their changes cannot be guessed.
            kind = "" if batch.family is None else "view_"
            sums[f"{kind}mlm"] = loss.detach() * len(labels)
            sums[f"{kind}right"] = (guess == labels).sum().float()
            sums[f"{kind}asked"] = float(len(labels))
        return loss

    def _contrastive(self, hidden: Tensor, batch: Packed, layout: Layout, sums: Found) -> Tensor:
        family = torch.from_numpy(batch.family).to(hidden.device)
        group = torch.from_numpy(batch.group).to(hidden.device)
        told = self._settings
        with torch.autocast(hidden.device.type, enabled=False):
            # Centred: an index subtracts the mean too, and without it a young model's vectors all point one way.
            vectors = normalised(pool_mean(hidden, layout), center=True)
            loss = relation_loss(vectors, family, group, temperature=told.temperature, group_weight=told.clan_weight)
        sums["contrastive"] = loss.detach()
        sums["nearest"] = nearest_share(vectors.detach(), family)
        sums["views"] = 1.0
        return loss


def last(states: Iterable[Tensor]) -> Tensor:
    """The last of the hidden states; the others are let go at once."""
    return deque(states, maxlen=1).pop()
