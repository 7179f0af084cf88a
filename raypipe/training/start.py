"""The model that a run begins with: a fresh one, or that of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.alphabet import STANDARD_TOKENS, Alphabet
from model.config import AidoRnaConfig
from model.identity import checkpoint_folder, read_alphabet
from raypipe.checkpoints import Checkpoint, find_checkpoint, find_on_node, has_lm_head
from raypipe.errors import UsageError
from raypipe.training.settings import OF_A_NEW_MODEL, PretrainSettings

if TYPE_CHECKING:
    from model.encoder import AidoRna


@dataclass(frozen=True)
class Start:
    """What a run begins with; small, and the same for every worker.

    Attributes:
        config: shape and arithmetic.
        alphabet: the vocabulary.
        checkpoint: whose weights are gone on with; None for fresh ones.
    """

    config: AidoRnaConfig
    alphabet: Alphabet
    checkpoint: Checkpoint | None = None

    @property
    def settled(self) -> dict[str, Any]:
        """What the model has of the settings of a new one, by their names."""
        return {name: getattr(self.config, name) for name in OF_A_NEW_MODEL}


def find_start(settings: PretrainSettings) -> Start:
    """Find what `settings` asks to begin with; loads no weights.

    Raises:
        UsageError: a shape that is asked for is not the checkpoint's.
        RaypipeError: the checkpoint cannot be had.
        model.errors.ModelError: it is damaged, or the shape that is asked for is none.
    """
    if settings.model is None:
        shape = {name: getattr(settings, name) for name in OF_A_NEW_MODEL}
        config = AidoRnaConfig(
            **shape,
            hidden_dropout=settings.hidden_dropout,
            attention_dropout=settings.attention_dropout,
        )
        return Start(config, Alphabet(STANDARD_TOKENS))
    checkpoint = find_checkpoint(settings.model)
    start = Start(checkpoint.config, read_alphabet(checkpoint_folder(checkpoint.path)), checkpoint)
    for name, there in start.settled.items():
        asked = getattr(settings, name)
        if name in settings.model_fields_set and asked != there:
            raise UsageError(
                f"--{name.replace('_', '-')} {asked}: {settings.model} is a checkpoint of another shape, it has "
                f"{name} {there}; leave that out to go on with it, or --model to train a new one"
            )
    return start


def fresh_head(start: Start, settings: PretrainSettings) -> bool:
    """Whether the checkpoint lacks the masked-LM head that is to be trained, so that a fresh one is."""
    return start.checkpoint is not None and settings.mlm_weight > 0 and not has_lm_head(start.checkpoint)


def build(start: Start, settings: PretrainSettings, *, to_be_loaded: bool = False) -> AidoRna:
    """The encoder with its weights, in float32 on the CPU, with an LM head where the masked LM is learned.

    Args:
        start: what `find_start` gave.
        settings: the recipe.
        to_be_loaded: a state follows, so that fresh weights are not worth their while.

    Returns:
        In training mode. What is not trained (a pooler, an LM head without a masked LM) asks for no gradients.
    """
    import torch

    from model.checkpoint import load_encoder
    from model.encoder import AidoRna
    from model.training import init_weights, look_at_neighbours, set_dropout

    masked = settings.mlm_weight > 0
    if start.checkpoint is None:
        encoder = AidoRna(start.config, lm_head=masked)
        if not to_be_loaded:
            init_weights(encoder, settings.seed)
            if settings.local_start:
                look_at_neighbours(encoder)
    else:
        found = start.checkpoint
        folder = checkpoint_folder(find_on_node(found.asked, found.path, found.fingerprint))
        encoder, _ = load_encoder(folder, start.config, device=torch.device("cpu"), dtype=torch.float32)
        if masked and encoder.lm_head is None:
            fresh = AidoRna(start.config, lm_head=True)
            init_weights(fresh, settings.seed)
            encoder.lm_head = fresh.lm_head
    set_dropout(encoder, settings.hidden_dropout, settings.attention_dropout)
    encoder.checkpoint_activations = settings.checkpoint_activations
    for part in (encoder.pooler, None if masked else encoder.lm_head):
        if part is not None:
            part.requires_grad_(False)
    return encoder.train()
