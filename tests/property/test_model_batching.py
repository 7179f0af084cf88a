"""What must not matter: company in the batch, its order, the token budget, letter case, T for U."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.api import Model
from model.encoder import Block
from model.windows import cut, mean_weights

LETTERS = "ACGURYSWKMBDHVN.X*-I"
sequences = st.lists(st.text(LETTERS, min_size=1, max_size=40), min_size=1, max_size=8)
BOUND = 2e-5


@pytest.fixture(scope="module")
def loaded() -> Model:
    """nano with its weights enlarged: as drawn they are so small that attention would be even everywhere."""
    loaded = model.load("nano")
    with torch.no_grad():
        for parameter in loaded.module.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)
    return loaded


def _close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()


def _padded_forward(loaded: Model, seqs: list[str]) -> list[np.ndarray]:
    """The textbook encoder: padded batch (S, L), dense masked attention, rotary as complex multiplication."""
    encoder, config = loaded.module, loaded.config
    tokens = loaded.alphabet.encode(seqs)
    longest = int(np.diff(tokens.offsets).max())
    ids = torch.zeros(len(seqs), longest, dtype=torch.long)
    for i in range(len(seqs)):
        ids[i, : len(tokens[i])] = torch.from_numpy(tokens[i].astype(np.int64))
    keep = ids != 0
    pairs = torch.arange(config.head_size // 2, dtype=torch.float64)
    angles = torch.outer(torch.arange(longest, dtype=torch.float64), 10000.0 ** (-2 * pairs / config.head_size))
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (config.num_heads, config.head_size)).transpose(1, 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        half = config.head_size // 2
        z = torch.complex(x[..., :half], x[..., half:]) * turn
        return torch.cat([z.real, z.imag], dim=-1)

    x = encoder.embedding(ids) * keep[..., None]
    for block in encoder.layers:
        assert isinstance(block, Block)
        y = block.attention_norm(x)
        q, k = turned(heads(block.attention.query(y))), turned(heads(block.attention.key(y)))
        scores = q @ k.transpose(-1, -2) / config.head_size**0.5
        probabilities = scores.masked_fill(~keep[:, None, None, :], float("-inf")).softmax(-1)
        x = x + block.attention.output((probabilities @ heads(block.attention.value(y))).transpose(1, 2).flatten(-2))
        y = block.mlp_norm(x)
        gate = block.mlp.gate(y)
        x = x + block.mlp.down(gate * torch.sigmoid(gate) * block.mlp.up(y))
    last = encoder.final_norm(x).detach().numpy()
    return [last[i, : len(tokens[i])] for i in range(len(seqs))]


@settings(max_examples=25, deadline=None)
@given(seqs=sequences)
def test_packed_equals_padded(loaded: Model, seqs: list[str]) -> None:
    for ours, theirs in zip(loaded.encode(seqs), _padded_forward(loaded, seqs), strict=True):
        _close(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(seqs=sequences, max_tokens=st.integers(1, 200))
def test_batched_equals_alone_whatever_the_budget(loaded: Model, seqs: list[str], max_tokens: int) -> None:
    together = loaded.encode(seqs, max_tokens=max_tokens)
    pooled = loaded.features(seqs, max_tokens=max_tokens, per_token=True)
    assert pooled.tokens is not None
    for i, seq in enumerate(seqs):
        alone = loaded.encode([seq])[0]
        _close(together[i], alone)
        _close(pooled.tokens[i], alone[1:-1])
        _close(pooled.embeddings[i], alone[1:-1].mean(0))


@settings(max_examples=15, deadline=None)
@given(seqs=sequences, order=st.randoms(use_true_random=False))
def test_order_is_kept(loaded: Model, seqs: list[str], order: object) -> None:
    places = list(range(len(seqs)))
    order.shuffle(places)  # type: ignore[attr-defined]
    straight, shuffled = loaded.embed(seqs), loaded.embed([seqs[i] for i in places])
    for row, place in enumerate(places):
        _close(shuffled[row], straight[place])


@settings(max_examples=15, deadline=None)
@given(seqs=sequences)
def test_letter_case_and_t_for_u_do_not_matter(loaded: Model, seqs: list[str]) -> None:
    expected = loaded.alphabet.encode(seqs)
    for other in ([s.lower() for s in seqs], [s.replace("U", "T") for s in seqs], [s.encode() for s in seqs]):
        tokens = loaded.alphabet.encode(other)
        assert (tokens.ids == expected.ids).all()
        assert (tokens.offsets == expected.offsets).all()
    assert (loaded.embed(seqs) == loaded.embed([s.lower().replace("u", "t") for s in seqs])).all()


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=12),
    size=st.integers(1, 20),
    long=st.sampled_from(["window", "truncate"]),
)
def test_windows_cover_every_nucleotide(lengths: list[int], size: int, long: str) -> None:
    windows = cut(np.array(lengths, dtype=np.int64), size=size, long=long)  # type: ignore[arg-type]
    weights = mean_weights(windows)
    for s, length in enumerate(lengths):
        own = np.flatnonzero(windows.sequence == s)
        starts, sizes = windows.start[own], windows.length[own]
        kept = min(length, size) if long == "truncate" else length
        assert windows.kept[s] == kept
        # Naively: step by half the size until a window reaches the end.
        naive, start = [0], 0
        while naive[-1] + size < kept:
            start += max(1, size // 2)
            naive.append(start)
        assert starts.tolist() == naive
        assert (starts + sizes).tolist() == [min(kept, start + size) for start in naive]
        if kept:
            assert sum(weights[w].sum() for w in own) == pytest.approx(1.0, rel=1e-5)
            assert all(weights[w][0] == weights[w][-1] == 0 for w in own)


def _naive_windows(loaded: Model, seq: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per-nucleotide averages, averaged <cls>, and the maximum over all windows, by plain loops."""
    size, stride = loaded.config.context, loaded.config.context // 2
    rows: list[list[np.ndarray]] = [[] for _ in seq]
    cls: list[np.ndarray] = []
    start = 0
    while True:
        states = loaded.encode([seq[start : start + size]])[0]
        cls.append(states[0])
        for offset, row in enumerate(states[1:-1]):
            rows[start + offset].append(row)
        if start + size >= len(seq):
            break
        start += stride
    return (
        np.stack([np.mean(values, axis=0) for values in rows]),
        np.mean(cls, axis=0),
        np.max([value for values in rows for value in values], axis=0),
    )


@pytest.mark.parametrize("length", [1022, 1023, 1533, 1534, 2600])
def test_long_sequences_follow_the_window_policy(loaded: Model, length: int) -> None:
    seq = "".join(np.random.default_rng(length).choice(list("ACGU"), length))
    tokens, cls, maximum = _naive_windows(loaded, seq)
    result = loaded.features(["ACGU", seq], per_token=True)
    assert result.tokens is not None
    _close(result.tokens[1], tokens)
    _close(result.embeddings[1], tokens.mean(0))
    _close(loaded.embed([seq], "cls")[0], cls)
    _close(loaded.embed([seq], "max")[0], maximum)
    _close(loaded.encode([seq])[0][1:-1], tokens)
    _close(loaded.encode([seq])[0][0], cls)
    _close(loaded.features([seq], long="truncate").embeddings, loaded.embed([seq[:1022]]))
