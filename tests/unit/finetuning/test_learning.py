"""Gradients, losses, whitening and scaling: what is taught is what predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from index.transforms import fit
from index.whitening import axes_of
from model import HeadConfig, Model, load
from model.adapters import write_adapter
from model.heads import make_head
from raypipe.errors import UsageError
from raypipe.finetuning.batching import epoch_batches, learning_rate, plain_batches
from raypipe.finetuning.cache import CachedFeed, cached_bytes
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.feeds import FrozenFeed, TrainedFeed
from raypipe.finetuning.learners import PairLearner, RowLearner
from raypipe.finetuning.losses import Loss, Scale, class_weights
from raypipe.finetuning.spaces import IGNORE, Space
from raypipe.finetuning.whitening import AT_LEAST, WhitenedFeed, Whitening, can_be_whitened
from tests.headed import make_headed

# One beyond the context of 1022, which is read in windows.
TEXTS = ["GGGCAAAAGCCC", "ACGU" * 280, "ACGUUGCA", "GGNAC"]
HEADS = {
    "mean": HeadConfig("sequence", "multiclass", 3, pooling="mean"),
    "max": HeadConfig("sequence", "binary", pooling="max"),
    "cls": HeadConfig("sequence", "regression", 2, pooling="cls", transform="nonlinear"),
    "pooler": HeadConfig("sequence", "multilabel", 2),
    "token": HeadConfig("token", "multiclass", 3),
    "deep": HeadConfig("token", "regression", transform="nonlinear"),
}
PAIRS = {
    "contact": HeadConfig("contact", "binary", transform="linear"),
    "structure": HeadConfig("structure"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_headed(tmp_path_factory.mktemp("models") / "narrow"))


def examples(config: HeadConfig, texts: list[str] = TEXTS) -> Examples:
    """With random labels, some of them unknown."""
    dice = np.random.default_rng(1)
    names = tuple("abc"[: config.num_labels]) if config.num_labels > 1 else ("yes",)
    assert config.problem
    space = Space(config.kind, config.problem, names)
    labels: list[np.ndarray] = []
    for text in texts:
        many = config.num_labels > 1 and config.problem != "multiclass"
        shape = ((len(text),) if config.kind == "token" else ()) + ((config.num_labels,) if many else ())
        if config.kind in PAIRS:
            labels.append(np.array([[0, len(text) - 1], [1, len(text) - 2]], np.int32))
        elif config.problem == "multiclass":
            drawn = dice.integers(0, config.num_labels, shape)
            labels.append(np.where(dice.random(shape) < 0.1, IGNORE, drawn).astype(np.int64))
        elif config.problem == "regression":
            labels.append(np.where(dice.random(shape) < 0.1, np.nan, dice.normal(5, 3, shape)).astype(np.float32))
        else:
            labels.append(dice.integers(0, 2, shape).astype(np.float32))
    ids = [f"s{k}" for k in range(len(texts))]
    return Examples(ids, ids, texts, labels, np.array(["train"] * len(texts)), space)


def learner(model: Model, config: HeadConfig, feed: Any, texts: list[str] = TEXTS) -> Any:
    torch.manual_seed(1)
    head = make_head(config, model.config.hidden_size).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if config.kind in PAIRS:
        return PairLearner(head, feed, examples(config, texts))
    assert config.problem
    return RowLearner(head, feed, examples(config, texts), Loss(config.problem))


@pytest.mark.parametrize("name", [*HEADS, *PAIRS])
@pytest.mark.parametrize("kind", ["frozen", "cached", "trained"])
def test_a_head_learns_on_what_it_predicts_from(model: Model, tmp_path: Path, name: str, kind: str) -> None:
    """Logits and loss are those of `Model.logits` and `Model.loss`, windows of long sequences included."""
    config = (HEADS | PAIRS)[name]
    texts = TEXTS if name in HEADS else [text for text in TEXTS if len(text) < 100]
    feed: Any = FrozenFeed(model, config, texts)
    if kind == "cached":
        feed = CachedFeed(feed, tmp_path, print)
        size = (tmp_path / "states.bin").stat().st_size
        lengths = np.array(list(map(len, texts)))
        assert size == cached_bytes(config.kind, lengths, model.config.context, model.config.hidden_size)
    elif kind == "trained":
        feed = TrainedFeed(model, config, texts)
    taught = learner(model, config, feed, texts)
    batch = [2, 0, 1]
    logits, total = taught.measure(batch)
    path = tmp_path / f"own_{name}.safetensors"
    write_adapter(path, taught.head, config, trunk=model.fingerprint, trained=True)
    fresh = load(model.folder)
    fresh.load_head(path)
    expected = fresh.logits([texts[place] for place in batch], head=f"own_{name}")
    # Cached states of nucleotides are float16.
    loose = 2e-2 if kind == "cached" else 1e-4
    for own, wanted in zip(logits, expected, strict=True):
        np.testing.assert_allclose(own.reshape(wanted.shape), wanted, rtol=loose, atol=loose * np.abs(wanted).max())
    if name in HEADS:
        labels = [taught.examples.labels[place] for place in batch]
        wanted_loss = fresh.loss([texts[place] for place in batch], labels, head=f"own_{name}")
        assert total / taught.count(batch) == pytest.approx(wanted_loss, rel=1e-2 if kind == "cached" else 1e-4)


@pytest.mark.parametrize("name", ["mean", "token"])
def test_a_cache_that_was_cut_short_is_gone_on_with(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from raypipe.finetuning import cache

    # A sequence at a time, and a note after each.
    monkeypatch.setattr(cache, "_CHUNK_TOKENS", 1)
    monkeypatch.setattr(cache, "_LINE_EVERY_S", 0.0)

    class Counting(FrozenFeed):
        left = 2
        seen: tuple[int, ...] = ()

        def __call__(self, batch: Any) -> Any:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.seen = (*self.seen, *batch)
            return super().__call__(batch)

    feed = Counting(model, HEADS[name], TEXTS)
    with pytest.raises(KeyboardInterrupt):
        CachedFeed(feed, tmp_path, lambda line: None)
    feed.left = 99
    found = CachedFeed(feed, tmp_path, lambda line: None)
    assert feed.seen == (0, 1, 2, 3)
    CachedFeed(feed, tmp_path, lambda line: None)
    assert feed.seen == (0, 1, 2, 3)
    plain = FrozenFeed(model, HEADS[name], TEXTS)
    for place in range(len(TEXTS)):
        own, wanted = found([place]), plain([place])
        if isinstance(own, torch.Tensor) and isinstance(wanted, torch.Tensor):
            np.testing.assert_allclose(own, wanted, rtol=1e-5)
        else:
            for (start, states), (begin, exact) in zip(own[0], wanted[0], strict=True):
                assert start == begin
                np.testing.assert_allclose(states, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*HEADS, *PAIRS])
def test_gradients_are_those_of_the_loss(model: Model, name: str) -> None:
    """By a step against the gradient: the loss falls as much as the gradient says; the trunk's gradients included."""
    config = (HEADS | PAIRS)[name]
    texts = ["GGGCAAAAGCCC", "ACGUUGCA", "GGNAC"]
    fresh = load(model.folder)
    taught = learner(fresh, config, TrainedFeed(fresh, config, texts), texts)
    fresh.module.requires_grad_(True)
    modules = [taught.head, fresh.module]
    batch = [0, 1, 2]
    divisor = taught.count(batch)
    before = taught.backward(batch, divisor) / divisor
    parameters = [p for module in modules for p in module.parameters() if p.grad is not None]
    assert len(parameters) > len(list(taught.head.parameters())) + 5
    steep = sum(float((p.grad.double() ** 2).sum()) for p in parameters)
    size = 1e-3 * before / steep
    with torch.no_grad():
        for p in parameters:
            p -= size * p.grad
    after = taught.measure(batch)[1] / divisor
    assert before - after == pytest.approx(size * steep, rel=0.05)


def test_pairs_are_weighed(model: Model) -> None:
    """The loss of a sequence: binary cross entropy over pairs i < j, those that are there weighed, by its length."""
    config = HeadConfig("contact", "binary")
    texts = ["GGGCAAAAGCCC", "ACGUUGCA"]
    feed = FrozenFeed(model, config, texts)
    taught = replace(learner(model, config, feed, texts), positive_weight=3.0)
    logits, total = taught.measure([0, 1])
    expected = 0.0
    for text, map_ in zip(texts, logits, strict=True):
        n = len(text)
        for i in range(n):
            for j in range(i + 1, n):
                z = float(map_[i, j])
                yes = (i, j) in {(0, n - 1), (1, n - 2)}
                expected += (3 * np.log1p(np.exp(-z)) if yes else np.log1p(np.exp(z))) / n
    assert total == pytest.approx(expected, rel=1e-4)
    assert taught.count([0, 1]) == 2


@pytest.mark.parametrize("name", ["mean", "cls", "token", "deep", "contact", "structure"])
def test_whitening_folds_into_the_head(model: Model, name: str) -> None:
    config = (HEADS | PAIRS)[name]
    dice = np.random.default_rng(4)
    texts = ["".join(dice.choice(list("ACGU"), dice.integers(20, 40))) for _ in range(60)]
    feed = FrozenFeed(model, config, texts)
    whitening = Whitening.of([feed(range(60))])
    white = WhitenedFeed(feed, whitening)
    taught = learner(model, config, white, texts)
    assert can_be_whitened(taught.head)
    before = taught.measure([3, 5])[0]
    whitening.fold(taught.head)
    plain = replace(taught, feed=feed)
    for own, wanted in zip(plain.measure([3, 5])[0], before, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=2e-3, atol=2e-3)
    # And back: a head that was made for states as they are goes on with whitened ones.
    after = plain.measure([3, 5])[0]
    whitening.unfold(taught.head)
    for own, wanted in zip(taught.measure([3, 5])[0], after, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=2e-3, atol=2e-3)


def test_whitened_states_vary_alike() -> None:
    torch.manual_seed(2)
    states = torch.randn(4000, 8) * torch.logspace(-0.5, 0.5, 8) @ torch.linalg.qr(torch.randn(8, 8)).Q + 5
    # In batches, as they are read: of two the covariance is known well enough.
    rows = Whitening.of(states.split(500))(states[:1000])
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(8), atol=0.2)
    assert np.ptp(np.linalg.eigvalsh(np.cov(states.T))) > 9
    # As an index whitens, whose vectors end with length 1.
    units = F.normalize(states[:800], dim=1)
    own = Whitening.of([units])(units)
    index = fit(units.numpy(), "whiten")
    np.testing.assert_allclose(F.normalize(own, dim=1), index.apply(units.numpy()), atol=1e-4)


@pytest.mark.parametrize("at_least", [0.0, AT_LEAST])
def test_of_few_rows_little_is_believed(at_least: float) -> None:
    """What varies by chance in fewer rows than dimensions is not blown up elsewhere."""
    torch.manual_seed(3)
    spread = torch.logspace(0, -3, 64)
    few, many = torch.randn(40, 64) * spread, torch.randn(4000, 64) * spread
    whitened = Whitening.of([few], at_least)(many)
    assert 0.2 < float(whitened.var(0).max()) < 8
    # Without shrinkage the axes that 40 rows do not span would have no bound at all.
    values, axes = axes_of(np.cov(few.double().numpy().T, bias=True))
    raw = many.double().numpy() @ axes / np.sqrt(np.maximum(values, 1e-9 * values.mean()))
    assert raw.var(0).max() > 100


@pytest.mark.parametrize("few", [False, True])
def test_what_whitening_is_for(few: bool) -> None:
    """A class that shows in a weak axis is learned in time; one that shows in a strong one survives few sequences.

    States share a large part and are correlated, as those of language models.
    """
    torch.manual_seed(4)
    kinds, axis = torch.arange(2000) % 2, 0 if few else 40
    spread = torch.logspace(1.5, -1, 48)
    states = torch.randn(2000, 48) * spread
    states[:, axis] += (kinds - 0.5) * (4 if few else 6) * spread[axis]
    states = (states + 30) @ torch.linalg.qr(torch.randn(48, 48)).Q
    learned, measured = slice(0, 40 if few else 1000), slice(1000, 2000)

    def accuracy(read: Any) -> float:
        head = torch.nn.Linear(48, 2)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(head(read(states[learned])), kinds[learned]).backward()
            optimizer.step()
        return float((head(read(states[measured])).argmax(1) == kinds[measured]).float().mean())

    assert accuracy(Whitening.of([states[learned]])) > (0.75 if few else 0.9)
    if not few:
        assert accuracy(lambda x: x) < 0.75


def test_axes_that_do_not_vary_are_scaled_as_the_others() -> None:
    states = torch.zeros(50, 3)
    states[:, 0] = torch.linspace(-1, 1, 50)
    states[:, 2] = 7
    whitening = Whitening.of([states])
    usual = float((states[:, 0].var(correction=0) / 3).sqrt())
    elsewhere = whitening(torch.tensor([[0.0, 1.0, 9.0]]))[0].abs().sort().values
    np.testing.assert_allclose(elsewhere, [0, 1 / usual, 2 / usual], rtol=1e-5, atol=1e-5)
    assert not can_be_whitened(make_head(HeadConfig("contact", "binary"), 4))


def test_values_are_learned_in_units_of_their_spread() -> None:
    labels = [np.array([100.0, 5.0], np.float32), np.array([300.0, np.nan], np.float32)]
    scale = Scale.of(labels, 2)
    np.testing.assert_allclose(scale.shrink(labels[0]), [-1, 0])
    head = make_head(HeadConfig("sequence", "regression", 2, pooling="mean"), 4)
    x = torch.randn(3, 4)
    small = head(x).detach().numpy()
    decoder: Any = head.decoder
    scale.fold(decoder)
    np.testing.assert_allclose(head(x).detach().numpy(), small * scale.spread + scale.mean, rtol=1e-5)
    scale.unfold(decoder)
    np.testing.assert_allclose(head(x).detach().numpy(), small, rtol=1e-4, atol=1e-5)


def test_weights_of_classes() -> None:
    space = Space("sequence", "multiclass", ("a", "b", "c"))
    labels = [np.array(k) for k in (0, 0, 0, 1, 2, 2, IGNORE)]
    assert class_weights(space, labels, ["none"]) is None
    assert class_weights(space, labels, ["balanced"]) == pytest.approx([6 / 9, 6 / 3, 1.0])
    assert class_weights(space, labels, ["b=2.5"]) == [1, 2.5, 1]
    flags = Space("sequence", "binary", ("yes",))
    assert class_weights(flags, [np.array(float(x)) for x in (1, 0, 0, 0)], ["balanced"]) == [3.0]
    for wrong in (["b"], ["z=1"], ["b=x"], ["b=0"]):
        with pytest.raises(UsageError, match="--class-weights"):
            class_weights(space, labels, wrong)
    with pytest.raises(UsageError, match="values have no classes"):
        class_weights(Space("sequence", "regression", ("v",)), labels, ["balanced"])


def test_weighted_losses_are_torchs() -> None:
    logits, weights = torch.randn(5, 3), torch.tensor([1.0, 2.0, 5.0])
    labels = np.array([0, 2, IGNORE, 1, 2])
    loss = Loss("multiclass", weights)
    expected = F.cross_entropy(logits, torch.from_numpy(labels), weights, ignore_index=IGNORE)
    assert float(loss.total(logits, labels)) / loss.count(labels) == pytest.approx(float(expected), rel=1e-5)
    flags = np.array([[1, 0, IGNORE], [0, 1, 1]], np.float32)
    loss = Loss("multilabel", weights)
    there = flags != IGNORE
    each = F.binary_cross_entropy_with_logits(
        logits[:2], torch.from_numpy(np.where(there, flags, 0)), pos_weight=weights, reduction="none"
    )
    assert float(loss.total(logits[:2], flags)) == pytest.approx(float(each[torch.from_numpy(there)].sum()), rel=1e-5)
    assert loss.count(flags) == 5


def test_batches() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 500)
    places = np.arange(0, 500, 2)
    one = epoch_batches(places, lengths, 300, seed=1, epoch=0)
    assert sorted(place for batch in one for place in batch) == places.tolist()
    assert all(sum(lengths[place] + 2 for place in batch) <= 300 for batch in one)
    assert one == epoch_batches(places, lengths, 300, seed=1, epoch=0)
    assert one != epoch_batches(places, lengths, 300, seed=1, epoch=1)
    assert one != epoch_batches(places, lengths, 300, seed=2, epoch=0)
    # Longer than the budget: a batch of its own.
    assert plain_batches(np.array([0, 1]), np.array([1000, 5]), 100) == [[0], [1]]


def test_learning_rate() -> None:
    assert learning_rate(0.05, 0.1) == 0.5
    assert learning_rate(0.1, 0.1) == 1.0
    assert learning_rate(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate(1.0, 0.1) == pytest.approx(0.0)
    assert learning_rate(0.0, 0.0) == 1.0
