"""A loaded model and what it is asked, for sequences that stand in no store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from index.sets import Prediction
from raypipe.checkpoints import Checkpoint
from raypipe.compute_types import default_dtype
from raypipe.outputs import Ask, compute, one_pass
from raypipe.streaming import Answer
from raypipe.work import is_masked

if TYPE_CHECKING:
    from model import Model

# Forward passes of one chunk: enough to sort by length, few enough to see answers soon.
CHUNK_PASSES = 8
# A head over pairs of nucleotides spends on so many of them what a small trunk spends on a token, or more.
PAIRS_PER_TOKEN = 100


class Answerer:
    """Gives every sequence its answers by the names of the sets, or the reason why there are none.

    Args:
        sets: what is asked for, as for a store.
        device: by default CUDA where there is one.
        dtype: by default as `raypipe.compute_types.default_dtype` says.
        model: the checkpoint's, where it is loaded already; `device` and `dtype` are its own then.

    Attributes:
        sets: what is asked for.
        model: the loaded model.
        budget: tokens of a chunk of sequences that is answered at once.

    Raises:
        ModelError: the model or a head cannot be loaded, there is no such device, or the model has not what is asked.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sets: Sequence[Prediction],
        ask: Ask,
        *,
        device: str | None,
        dtype: str | None,
        model: Model | None = None,
    ) -> None:
        import torch

        from model import load
        from model.trunk import DEFAULT_MAX_TOKENS

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or default_dtype(cuda=device.startswith("cuda"))
        self.sets, self._ask = list(sets), ask
        self.model = load(checkpoint.path, device=device, dtype=dtype) if model is None else model
        for made in sets:
            if made.head_path is not None:
                self.model.load_head(made.head_path)
        # What the model cannot do at all is no fault of the sequences, which would all be refused for it.
        one_pass(self.model, self.sets, ["ACGU"], ask)
        self.budget = CHUNK_PASSES * (ask.max_tokens or DEFAULT_MAX_TOKENS[self.model.device.type])

    def cost(self, length: int) -> int:
        """Tokens that the model reads for a sequence of so many nucleotides, near enough; pairs in tokens' worth."""
        tokens = length + 2
        if any(is_masked(made) for made in self.sets):
            return tokens * min(tokens, self.model.config.context)
        if any(made.task in ("contact", "structure") for made in self.sets):
            tokens += length * length // PAIRS_PER_TOKEN
        return tokens

    def __call__(self, sequences: list[str]) -> list[Answer]:
        """One answer for each sequence; what does not fit the device's memory, even alone, has a reason for it."""
        outputs = compute(self.model, self.sets, sequences, self._ask)
        answers: list[Answer] = []
        for place in range(len(sequences)):
            reason = next((output.reasons[place] for output in outputs if place in output.reasons), None)
            rows: dict[str, Any] = {}
            if reason is None:
                rows = {made.name: output.rows[place] for made, output in zip(self.sets, outputs, strict=True)}
            answers.append((rows, reason))
        return answers
