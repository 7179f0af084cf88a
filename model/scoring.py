"""What the masked LM thinks of a sequence and of its single-nucleotide variants.

Probabilities are over A, C, G and U only: published checkpoints give the ambiguity letters averages of these, so that
they would take probability that means nothing. Logarithms are natural. Loads torch only where the model is run.

Legend: S sequences, L nucleotides of one sequence, T packed tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from model.alphabet import NUCLEOTIDES, Alphabet, Tokens
from model.windows import Windows

if TYPE_CHECKING:
    from model.encoder import AidoRna

Method = Literal["masked", "wild-type"]
"""masked: every position is scored while it alone is <mask>, one pass per nucleotide. wild-type: one pass, unmasked."""


@dataclass(frozen=True)
class PseudoLikelihood:
    """How likely a masked LM finds a sequence, letter by letter (Salazar et al. 2020, "Masked Language Model Scoring").

    Attributes:
        pll: sum over the scored letters of log p(letter | the others), natural logarithm; 0 where none is scored.
        scored: letters that are A, C, G or U; others, N and <mask> among them, are left out.
        perplexity: exp(-pll / scored): 1 for certainty, 4 for a model that knows nothing; NaN where none is scored.
    """

    pll: float
    scored: int
    perplexity: float


class VariantRow(TypedDict):
    """One substitution: position counts from 1; score = log_p_alt - log_p_ref; notation is like A12G."""

    notation: str
    position: int
    ref: str
    alt: str
    score: float
    log_p_ref: float
    log_p_alt: float


@dataclass(frozen=True)
class VariantEffects:
    """Every single-nucleotide substitution of a sequence (Meier et al. 2021, masked and wild-type marginals).

    Attributes:
        sequence: the L letters that were read: upper case, U for T, N for <mask> and for unknown characters.
        method: what the probabilities were read from.
        log_probabilities: (L, 4) float32, of A, C, G, U.
        scores: (L, 4) float32, log p(variant) - log p(the letter that stands there): above 0 where the model prefers
            the variant, 0 at the letter itself; NaN in rows where that letter is none of A, C, G, U.
    """

    sequence: str
    method: Method
    log_probabilities: np.ndarray
    scores: np.ndarray

    def rows(self) -> list[VariantRow]:
        """A table: three substitutions for every A, C, G or U of the sequence, by position, then A C G U."""
        table: list[VariantRow] = []
        per_position = zip(self.sequence, self.log_probabilities.tolist(), self.scores.tolist(), strict=True)
        for position, (ref, logs, scores) in enumerate(per_position, start=1):
            if ref not in NUCLEOTIDES:
                continue
            for alt, log_p, score in zip(NUCLEOTIDES, logs, scores, strict=True):
                if alt != ref:
                    table.append(
                        VariantRow(
                            notation=f"{ref}{position}{alt}",
                            position=position,
                            ref=ref,
                            alt=alt,
                            score=score,
                            log_p_ref=logs[NUCLEOTIDES.index(ref)],
                            log_p_alt=log_p,
                        )
                    )
        return table


def masked_logits(
    encoder: AidoRna, alphabet: Alphabet, tokens: Tokens, windows: Windows, *, max_tokens: int, fill: bool = False
) -> list[np.ndarray]:
    """Scores of every nucleotide while that one alone is <mask>.

    Each window is read as often as it has nucleotides, with another one masked each time. The copies of all windows are
    packed together, longest first, one batch at a time; the LM head is computed at the masked tokens only. A nucleotide
    that several windows cover is masked in each, and its scores are the average.

    Args:
        encoder: with an LM head.
        alphabet: gives the id of <mask>.
        tokens: the tokenised sequences.
        windows: how they are cut.
        max_tokens: budget of one batch, special tokens counted; a longer copy makes a batch of its own.
        fill: see `model.packing.batches`.

    Returns:
        One (L, V) float32 array for each sequence, L the nucleotides that the windows keep.
    """
    import torch

    from model.packing import batches
    from model.transfer import Arrivals, to_device

    window = np.repeat(np.arange(len(windows)), windows.length)
    place = np.arange(len(window)) - np.repeat(np.cumsum(windows.length) - windows.length, windows.length)
    copies = Windows(
        windows.sequence[window], windows.start[window], windows.length[window], windows.kept, windows.count
    )
    ends = np.cumsum(windows.kept)
    row = (ends - windows.kept)[copies.sequence] + copies.start + place
    total = np.zeros((int(windows.kept.sum()), encoder.config.vocab_size), dtype=np.float32)
    device = encoder.embedding.weight.device

    def take(chosen: np.ndarray, logits: np.ndarray) -> None:
        # add.at: one batch may hold the same nucleotide in two windows.
        np.add.at(total, row[chosen], logits)

    coming = Arrivals(take)
    with torch.inference_mode():
        for batch in batches(tokens, copies, alphabet, max_tokens=max_tokens, device=device, fill=fill):
            masked = batch.layout.cu_seqlens[:-1] + to_device(1 + place[batch.windows], device)
            batch.ids[masked] = alphabet.id["<mask>"]
            hidden = encoder(batch.ids, batch.filled)[masked]
            coming.add(batch.windows, encoder.logits(hidden))
    coming.finish()
    total /= np.bincount(row, minlength=len(total))[:, None].astype(np.float32)
    return np.split(total, ends[:-1]) if len(ends) else []


def nucleotide_log_probabilities(logits: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Log-softmax over A, C, G and U alone: (L, V) -> (L, 4) float32."""
    chosen = logits[:, alphabet.nucleotides].astype(np.float64)
    chosen -= chosen.max(axis=1, keepdims=True)
    return (chosen - np.log(np.exp(chosen).sum(axis=1, keepdims=True))).astype(np.float32)


def pseudo_likelihood(log_probabilities: np.ndarray, ids: np.ndarray, alphabet: Alphabet) -> PseudoLikelihood:
    """Sum up what each letter of a sequence got.

    Args:
        log_probabilities: (L, 4), of A, C, G, U.
        ids: (L,) token ids of the sequence, without special tokens.
        alphabet: says which of them are nucleotides.
    """
    column, known = _columns(ids, alphabet)
    scored = int(known.sum())
    pll = float(log_probabilities[known, column[known]].sum(dtype=np.float64))
    if not scored:
        return PseudoLikelihood(0.0, 0, float("nan"))
    with np.errstate(over="ignore"):
        return PseudoLikelihood(pll, scored, float(np.exp(-pll / scored)))


def variant_effects(
    log_probabilities: np.ndarray, ids: np.ndarray, alphabet: Alphabet, method: Method
) -> VariantEffects:
    """Compare each nucleotide with the letter that stands there.

    Args:
        log_probabilities: (L, 4), of A, C, G, U: of masked positions for "masked", of one plain pass for "wild-type".
        ids: (L,) token ids of the sequence, without special tokens.
        alphabet: names them.
        method: kept with the result.
    """
    column, known = _columns(ids, alphabet)
    log_probabilities = log_probabilities.astype(np.float32, copy=False)
    scores = log_probabilities - np.take_along_axis(log_probabilities, column[:, None], axis=1)
    scores[~known] = np.nan
    letters = [alphabet.tokens[i] for i in ids.tolist()]
    sequence = "".join(letter if len(letter) == 1 else "N" for letter in letters)
    return VariantEffects(sequence, method, log_probabilities, scores)


def _columns(ids: np.ndarray, alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray]:
    """(L,) the column of each letter among A C G U, 0 for others; (L,) bool, whether it is one of them."""
    table = np.full(256, -1, dtype=np.int64)
    table[alphabet.nucleotides] = np.arange(len(NUCLEOTIDES))
    column = table[ids]
    return np.maximum(column, 0), column >= 0
