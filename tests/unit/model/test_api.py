"""The model's own interface: shapes, options, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import ModelError, SequenceError
from model.api import Model
from model.pooling import Pooling

SEQS = ["ACGUACGGAU", "GGC", "AUNRYXUUUAGCGAU", "GGC"]


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Model:
    return model.load(tiny)


def test_shapes_and_types(loaded: Model) -> None:
    layers, width = loaded.config.num_layers, loaded.config.hidden_size
    assert [row.shape for row in loaded.encode(SEQS)] == [(len(s) + 2, width) for s in SEQS]
    assert [row.shape for row in loaded.hidden_states(SEQS)] == [(layers + 1, len(s) + 2, width) for s in SEQS]
    assert [row.shape for row in loaded.logits(SEQS)] == [(len(s) + 2, 26) for s in SEQS]
    assert loaded.pooler_output(SEQS).shape == (4, width)
    result = loaded.features(SEQS, per_token=True)
    assert result.embeddings.shape == (4, width)
    assert result.tokens is not None
    assert [row.shape for row in result.tokens] == [(len(s), width) for s in SEQS]
    assert loaded.features(SEQS).tokens is None
    arrays = [*loaded.encode(SEQS), *loaded.logits(SEQS), loaded.embed(SEQS), loaded.pooler_output(SEQS)]
    assert all(array.dtype == np.float32 for array in arrays)


def test_pooling_by_hand(loaded: Model) -> None:
    states = loaded.encode(SEQS)
    cases: list[tuple[Pooling, list[np.ndarray]]] = [
        ("mean", [row[1:-1].mean(0) for row in states]),
        ("max", [row[1:-1].max(0) for row in states]),
        ("cls", [row[0] for row in states]),
    ]
    for pooling, by_hand in cases:
        assert loaded.embed(SEQS, pooling) == pytest.approx(np.stack(by_hand), abs=1e-5)


def test_layers(loaded: Model) -> None:
    states = loaded.hidden_states(SEQS)
    for layer in range(loaded.config.num_layers + 1):
        by_hand = np.stack([state[layer, 1:-1].mean(0) for state in states])
        assert loaded.embed(SEQS, layer=layer) == pytest.approx(by_hand, abs=1e-5)
    assert (loaded.embed(SEQS, layer=-1) == loaded.embed(SEQS, layer=loaded.config.num_layers)).all()
    for layer in (-2, 3, 1.0):
        with pytest.raises(ModelError, match=r"layer must be 0 \(embedding\) to 2"):
            loaded.embed(SEQS, layer=layer)  # type: ignore[arg-type]


def test_empty_inputs(loaded: Model) -> None:
    assert loaded.encode([]) == []
    assert loaded.embed([]).shape == (0, loaded.config.hidden_size)
    assert loaded.encode([""])[0].shape == (2, loaded.config.hidden_size)
    assert loaded.embed(["A", ""], "cls").shape == (2, loaded.config.hidden_size)
    for pooling in ("mean", "max"):
        with pytest.raises(SequenceError, match="sequence 2 of the list is empty") as caught:
            loaded.embed(["A", "", "C"], pooling)  # type: ignore[arg-type]
        assert caught.value.index == 1


def test_long_sequences(loaded: Model) -> None:
    long = "ACGUA" * 300
    assert [len(row) for row in loaded.encode([long, "A"])] == [1502, 3]
    assert [len(row) for row in loaded.encode([long, "A"], long="truncate")] == [1024, 3]
    with pytest.raises(SequenceError, match="sequence 2 of the list has 1500 nucleotides"):
        loaded.encode(["A", long], long="error")
    with pytest.raises(ModelError, match="'window', 'truncate' or 'error'"):
        loaded.encode(["A"], long="cut")  # type: ignore[arg-type]
    assert loaded.pooler_output([long]).shape == (1, 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(tiny: Path, loaded: Model, dtype: str) -> None:
    rng = np.random.default_rng(0)
    seqs = ["".join(rng.choice(list("ACGU"), n)) for n in (5, 40, 300, 1022)]
    half = model.load(tiny, dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    ours, exact = half.embed(seqs), loaded.embed(seqs)
    assert ours.dtype == np.float32
    cosine = (ours * exact).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.999
    # Position 1000 must be as good as position 5: bfloat16 cannot count past 256, so rotary stays in float32.
    error = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(half.encode(seqs), loaded.encode(seqs), strict=True)]
    assert error[3] < 0.1


def test_loss(loaded: Model) -> None:
    texts, labels = ["AC<mask>U", "<mask>G"], np.full((2, 8), -100)
    labels[0, 3], labels[1, 1] = 8, 9
    logits = loaded.logits(texts)
    picked = [(logits[0][3], 8), (logits[1][1], 9)]
    by_hand = np.mean([np.log(np.exp(row.astype(np.float64)).sum()) - row[label] for row, label in picked])
    assert loaded.loss(texts, labels) == pytest.approx(by_hand, rel=1e-5)
    assert loaded.loss(texts, [labels[0, :6], labels[1, :4]]) == loaded.loss(texts, labels)
    long = "ACGU" * 300
    row = np.full(1202, -100)
    row[1], row[-1] = 6, 2
    assert loaded.loss([long], [row], long="truncate") > 0
    with pytest.raises(ModelError, match="1 rows of labels for 2"):
        loaded.loss(texts, labels[:1])
    with pytest.raises(ModelError, match="no token is labelled"):
        loaded.loss(texts, np.full((2, 8), -100))
    with pytest.raises(ModelError, match="sequence 1 of the list do not fit its 6 tokens"):
        loaded.loss(texts, labels[:, :5])
    beyond = labels.copy()
    beyond[1, 7] = 6
    with pytest.raises(ModelError, match="sequence 2 of the list do not fit its 4 tokens"):
        loaded.loss(texts, beyond)
    with pytest.raises(ModelError, match="token ids or -100"):
        loaded.loss(["A"], [[1, 26, 2]])


def test_fill_mask_as_the_pipeline_prints_it(loaded: Model) -> None:
    (one,) = loaded.logits(["gg<mask>c"])
    scores = torch.softmax(torch.from_numpy(one[3]), 0)
    answer = loaded.fill_mask("gg<mask>c", top_k=26)
    assert [a["token"] for a in answer] == scores.argsort(descending=True).tolist()
    assert [a["score"] for a in answer] == pytest.approx(scores.sort(descending=True).values.tolist())
    for candidate in answer:
        token = candidate["token_str"]
        assert loaded.alphabet.tokens[candidate["token"]] == token
        assert candidate["sequence"] == ("G G C" if token.startswith("<") else f"G G {token} C")
    assert len(loaded.fill_mask("gg<mask>c")) == 5
    first, second = loaded.fill_mask("a<mask>u<mask>", top_k=2)
    assert first[0]["sequence"] == f"<cls> A {first[0]['token_str']} U <mask> <eos>"
    assert second[1]["sequence"] == f"<cls> A <mask> U {second[1]['token_str']} <eos>"
    listed = loaded.fill_mask(["gg<mask>c", "a<mask>u<mask>"], top_k=2)
    assert listed[0][0]["sequence"] == answer[0]["sequence"]
    assert [[c["token"] for c in mask] for mask in listed[1]] == [[c["token"] for c in m] for m in (first, second)]
    assert loaded.fill_mask(["gg<mask>c"], top_k=1)[0] == loaded.fill_mask("gg<mask>c", top_k=1)


def test_fill_mask_errors(loaded: Model) -> None:
    with pytest.raises(SequenceError, match="sequence 2 of the list has no <mask>"):
        loaded.fill_mask(["A<mask>", "ACGU"])
    with pytest.raises(SequenceError, match="no <mask>"):
        loaded.fill_mask("A" * 1022 + "<mask>", long="truncate")
    with pytest.raises(ModelError, match="top_k"):
        loaded.fill_mask("A<mask>", top_k=0)


def test_options_that_make_no_sense(loaded: Model, tiny: Path) -> None:
    with pytest.raises(ModelError, match="pooling"):
        loaded.embed(SEQS, "sum")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="max_tokens"):
        loaded.encode(SEQS, max_tokens=0)
    with pytest.raises(ModelError, match="list of sequences"):
        loaded.embed("ACGU")
    with pytest.raises(SequenceError, match="sequence 2 of the list"):
        loaded.embed(["ACG", "A-C G"])
    assert loaded.embed(["AC G"], accept_unknown=True).shape == (1, 32)
    with pytest.raises(ModelError, match="dtype"):
        model.load(tiny, dtype="int8")
    with pytest.raises(ModelError, match="no device is called"):
        model.load(tiny, device="gpu0")
    with pytest.raises(ModelError, match="no attention kernel"):
        model.load(tiny, device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA device"):
            model.load(tiny, device="cuda")


def test_a_checkpoint_without_heads(
    tmp_path: Path, tiny_config: model.AidoRnaConfig, random_tensors: Callable[..., dict[str, torch.Tensor]]
) -> None:
    from model.checkpoint import write_checkpoint

    write_checkpoint(tmp_path / "bare", tiny_config.to_json(), random_tensors(), model.Alphabet())
    bare = model.load(tmp_path / "bare")
    assert bare.embed(SEQS).shape == (4, 32)
    with pytest.raises(ModelError, match="neither a task head nor a masked-LM head"):
        bare.logits(["A"])
    for call in (
        lambda: bare.logits(["A"], head="masked_lm"),
        lambda: bare.fill_mask("<mask>"),
        lambda: bare.variants(["A"]),
        lambda: bare.pseudo_log_likelihood(["A"], method="wild-type"),
    ):
        with pytest.raises(ModelError, match="no masked-LM head"):
            call()
