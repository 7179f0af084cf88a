"""Answers of the masked LM in the form of transformers' fill-mask pipeline.

Legend: L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from model.alphabet import SPECIAL_TOKENS, Alphabet


class Candidate(TypedDict):
    """One token for one mask."""

    score: float
    token: int
    token_str: str
    sequence: str


def candidates(ids: np.ndarray, logits: np.ndarray, alphabet: Alphabet, top_k: int) -> list[list[Candidate]]:
    """The best tokens for every mask of one sequence.

    Scores are a softmax over the whole vocabulary. The text of a sequence with one mask is written without special
    tokens; with several masks all special tokens stay, the other masks among them.

    Args:
        ids: (L,) token ids, <cls> and <eos> included.
        logits: (L, V) float32.
        alphabet: names the tokens.
        top_k: how many for each mask, best first.

    Returns:
        One list for each mask, in order; empty when there is none.
    """
    masks = np.flatnonzero(ids == alphabet.id["<mask>"]).tolist()
    hidden = {alphabet.id[token] for token in (SPECIAL_TOKENS if len(masks) == 1 else ("<pad>",))}
    answers: list[list[Candidate]] = []
    for mask in masks:
        scores = np.exp(logits[mask].astype(np.float64) - logits[mask].max())
        scores /= scores.sum()
        answers.append([])
        for token in np.argsort(-scores, kind="stable")[:top_k].tolist():
            filled = ids.astype(np.int64)
            filled[mask] = token
            text = " ".join(alphabet.tokens[i] for i in filled.tolist() if i not in hidden)
            answers[-1].append(
                Candidate(score=float(scores[token]), token=token, token_str=alphabet.tokens[token], sequence=text)
            )
    return answers
