"""What can be asked of the masked-LM head of a loaded checkpoint.

Legend: S sequences, L nucleotides of one sequence, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from model import scoring
from model.errors import ModelError, SequenceError
from model.fill import Candidate, candidates
from model.passes import Reading, Rows, refuse_nan, run
from model.scoring import Method, PseudoLikelihood, VariantEffects
from model.trunk import Options, Texts, Trunk


class MaskedLm(Trunk):
    """A trunk with a masked-LM head, or an error that says that there is none; see `model.Model`."""

    def fill_mask(self, seq: str | bytes | Texts, top_k: int = 5, **options: Unpack[Options]) -> list[Any]:
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
        reading = self._read(texts, **options)
        ids = [reading.kept_ids(i) for i in range(len(reading))]
        for i, row in enumerate(ids):
            if not (row == self.alphabet.id["<mask>"]).any():
                raise SequenceError(
                    f"sequence {i + 1} of the list has no <mask> to fill in (within what is read of it)",
                    index=i,
                )
        answers: list[Any] = []
        for row, logits in zip(ids, self._lm_logits(reading), strict=True):
            found: list[list[Candidate]] = candidates(row, logits, self.alphabet, top_k)
            answers.append(found[0] if len(found) == 1 else found)
        return answers if several else answers[0]

    def masked_logits(self, seqs: Texts, **options: Unpack[Options]) -> list[np.ndarray]:
        """Masked-LM scores of every nucleotide while that one alone is hidden, (L, V) float32.

        One pass per nucleotide, packed: the copies of all sequences share batches.
        """
        return self._marginal_logits(self._read(seqs, **options), "masked")

    def pseudo_log_likelihood(
        self, seqs: Texts, *, method: Method = "masked", **options: Unpack[Options]
    ) -> list[PseudoLikelihood]:
        """How likely the masked LM finds each sequence, over A C G U; see `PseudoLikelihood`.

        Args:
            seqs: sequences; letters other than A, C, G and U are not scored.
            method: "masked" hides each nucleotide in turn (L passes); "wild-type" reads all scores from one plain pass,
                in which the model sees the letter that it scores.
            options: see the class.
        """
        reading = self._read(seqs, **options)
        return [
            scoring.pseudo_likelihood(logs, reading.kept_ids(i)[1:-1], self.alphabet)
            for i, logs in enumerate(self._log_probabilities(reading, method))
        ]

    def variants(self, seqs: Texts, *, method: Method = "masked", **options: Unpack[Options]) -> list[VariantEffects]:
        """Score every single-nucleotide substitution of each sequence, over A C G U; see `VariantEffects`.

        Args:
            seqs: sequences.
            method: "masked" (masked-marginal: the position is hidden, L passes) or "wild-type" (wild-type-marginal: one
                plain pass).
            options: see the class.
        """
        reading = self._read(seqs, **options)
        return [
            scoring.variant_effects(logs, reading.kept_ids(i)[1:-1], self.alphabet, method)
            for i, logs in enumerate(self._log_probabilities(reading, method))
        ]

    def _lm_logits(self, reading: Reading) -> list[np.ndarray]:
        self._need_lm_head()
        rows = Rows(reading.windows, self.config.num_layers, self._encoder.logits)
        run(self._encoder, reading, [rows])
        values = rows.values()
        for i, logits in enumerate(values):
            refuse_nan(logits, i, "the masked LM")
        return values

    def _marginal_logits(self, reading: Reading, method: Method) -> list[np.ndarray]:
        if method not in ("masked", "wild-type"):
            raise ModelError(f"method is masked or wild-type, not {method!r}")
        if method == "wild-type":
            return [logits[1:-1] for logits in self._lm_logits(reading)]
        self._need_lm_head()
        values = scoring.masked_logits(
            self._encoder,
            self.alphabet,
            reading.tokens,
            reading.windows,
            max_tokens=reading.max_tokens,
            fill=reading.fill,
        )
        for i, logits in enumerate(values):
            refuse_nan(logits, i, "the masked LM")
        return values

    def _log_probabilities(self, reading: Reading, method: Method) -> list[np.ndarray]:
        return [
            scoring.nucleotide_log_probabilities(logits, self.alphabet)
            for logits in self._marginal_logits(reading, method)
        ]

    def _need_lm_head(self) -> None:
        if not self.has_lm_head:
            raise ModelError(f"{self.name} has no masked-LM head, so it cannot score or fill in letters")
