"""Task heads through the model's own interface: what they give, where they live, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model.adapters import write_adapter
from model.api import Model
from model.errors import CheckpointError, ModelError, SequenceError
from model.head_config import HeadConfig
from model.head_files import find_heads
from model.heads import make_head
from model.predictions import ContactPrediction, SequencePrediction, TokenPrediction

SEQS = ["ACGUACGGAUUUGC", "GGC", "AUNRYXUUUAGCGAU", "GGC", "A"]
CONFIGS = {
    "rna_type": HeadConfig("sequence", "multiclass", 3, labels=("tRNA", "rRNA", "miRNA"), pooling="mean"),
    "traits": HeadConfig("sequence", "multilabel", 2, labels=("nuclear", "short"), pooling="max"),
    "coding": HeadConfig("sequence", "binary", pooling="cls", threshold=0.2),
    "halflife": HeadConfig("sequence", "regression", transform="nonlinear"),
    "loop": HeadConfig("token", "multiclass", 2, labels=("stem", "loop")),
    "reactivity": HeadConfig("token", "regression", 2),
    "near": HeadConfig("contact", "binary"),
    "touch": HeadConfig("contact", "multilabel", 2, labels=("base", "sugar")),
    "fold": HeadConfig("structure"),
}


def _add(folder: Path, configs: dict[str, HeadConfig], *, trained: bool = True, trunk: str | None = None) -> None:
    fingerprint = trunk or model.fingerprint(folder)
    for number, (name, config) in enumerate(configs.items()):
        torch.manual_seed(number)
        head = make_head(config, 32)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_(0, 0.4)
        write_adapter(folder / "heads" / f"{name}.safetensors", head, config, trunk=fingerprint, trained=trained)


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("heads") / "tiny"
    shutil.copytree(tiny, copy)
    _add(copy, CONFIGS)
    return copy


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Model:
    return model.load(folder)


def _close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= 1e-5 * max(1.0, np.abs(theirs).max(initial=0))


def test_shapes_of_logits(loaded: Model) -> None:
    assert list(loaded.heads) == sorted(CONFIGS)
    for name, config in CONFIGS.items():
        logits = loaded.logits(SEQS, head=name)
        c = config.num_labels
        for seq, row in zip(SEQS, logits, strict=True):
            n = len(seq)
            shapes = {"sequence": (c,), "token": (n, c), "contact": (n, n, c), "structure": (n, n)}
            assert row.shape == shapes[config.kind]
            assert row.dtype == np.float32
            if config.kind in ("contact", "structure"):
                assert np.array_equal(row, row.swapaxes(0, 1))
            if config.kind == "structure":
                assert not row.diagonal().any()


def test_heads_read_what_they_say(loaded: Model) -> None:
    """A linear head on the vectors that `embed`, `pooler_output` and `features` give."""
    tokens = loaded.features(SEQS, per_token=True).tokens
    assert tokens is not None
    for name in ("rna_type", "traits", "coding", "loop"):
        head = loaded.head_module(name).state_dict()
        weight, bias = head["decoder.weight"].numpy(), head["decoder.bias"].numpy()
        config = CONFIGS[name]
        assert config.pooling != "pooler" or config.kind == "token"
        vectors = tokens if config.kind == "token" else list(loaded.embed(SEQS, config.pooling))  # type: ignore[arg-type]
        for row, vector in zip(loaded.logits(SEQS, head=name), vectors, strict=True):
            _close(row, vector @ weight.T + bias)
    with torch.no_grad():
        expected = loaded.head_module("halflife")(torch.from_numpy(loaded.pooler_output(SEQS)))
    _close(np.stack(loaded.logits(SEQS, head="halflife")), expected.numpy())


def test_one_pass_is_many_passes(loaded: Model) -> None:
    together = loaded.features(SEQS, pooling="max", layer=1, per_token=True, heads=list(CONFIGS), dense=True)
    assert np.array_equal(together.embeddings, loaded.embed(SEQS, "max", 1))
    for name in CONFIGS:
        for one, other in zip(together.predictions[name], loaded.predict(SEQS, name)[name], strict=True):
            for key, value in vars(one).items():
                assert np.array_equal(np.asarray(value, dtype=object), np.asarray(vars(other)[key], dtype=object)), key


@pytest.mark.parametrize("name", list(CONFIGS))
def test_company_order_and_budget_do_not_matter(loaded: Model, name: str) -> None:
    together = loaded.logits(SEQS, head=name, max_tokens=10)
    for seq, row, back in zip(SEQS, together, reversed(loaded.logits(SEQS[::-1], head=name)), strict=True):
        _close(row, loaded.logits([seq], head=name)[0])
        _close(row, back)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_long_sequences(tiny: Path, tmp_path: Path, name: str) -> None:
    """A context of 14 nucleotides: windows are averaged as states are; truncation reads the beginning."""
    short = tmp_path / "short"
    shutil.copytree(tiny, short)
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 16}))
    config = CONFIGS[name]
    _add(short, {name: config})
    loaded = model.load(short)
    seqs = ["ACGUACGGAUUUGCAUUGCAGGACUUACGA", "GGCUA", "ACGUACGGAUUUGCA"]
    starts = {30: (0, 7, 14, 21), 5: (0,), 15: (0, 7)}  # the last window is the rest
    for seq, row in zip(seqs, loaded.logits(seqs, head=name), strict=True):
        parts = [seq[start : start + 14] for start in starts[len(seq)]]
        if config.kind == "sequence":
            continue  # below
        shape = row.shape
        total, times = np.zeros(shape), np.zeros(shape)
        for start, logits in zip(starts[len(seq)], loaded.logits(parts, head=name), strict=True):
            own = (slice(start, start + len(logits)),) * (1 if config.kind == "token" else 2)
            total[own] += logits
            times[own] += 1
        assert np.array_equal(np.isneginf(row), times == 0)
        assert (times > 0).all() == (config.kind == "token" or len(seq) <= 14)
        _close(row[times > 0], (total[times > 0] / times[times > 0]).astype(np.float32))
    found = loaded.predict(seqs, name)[name][0]
    if isinstance(found, ContactPrediction):
        assert found.probabilities is not None
        assert np.abs(found.i - found.j).max(initial=0) < 14
        assert not found.probabilities[0, -1].any()
        labels = np.zeros((30, 30, 2) if config.num_labels > 1 else (30, 30), int)
        logits = torch.from_numpy(loaded.logits(seqs[:1], head=name)[0])
        read = logits[torch.isfinite(logits)]  # pairs that no window covers do not count
        expected = torch.nn.functional.binary_cross_entropy_with_logits(read, torch.zeros_like(read))
        assert loaded.loss(seqs[:1], labels, head=name) == pytest.approx(float(expected), rel=1e-5)
    if config.kind == "sequence":
        vectors = loaded.pooler_output(seqs) if config.pooling == "pooler" else loaded.embed(seqs, config.pooling)
        with torch.no_grad():
            expected = loaded.head_module(name)(torch.from_numpy(vectors))
        _close(np.stack(loaded.logits(seqs, head=name)), expected.numpy())
    cut = loaded.logits(seqs, head=name, long="truncate")
    for row, alone in zip(cut, loaded.logits([seq[:14] for seq in seqs], head=name), strict=True):
        _close(row, alone)
    with pytest.raises(SequenceError, match="sequence 1 of the list has 30 nucleotides"):
        loaded.logits(seqs, head=name, long="error")


def test_predictions_in_words(loaded: Model) -> None:
    found = loaded.predict(SEQS, list(CONFIGS))
    for i, seq in enumerate(SEQS):
        one = found["rna_type"][i]
        assert isinstance(one, SequencePrediction)
        assert one.label_names == ("tRNA", "rRNA", "miRNA")
        assert one.label == one.label_names[int(loaded.logits(SEQS, head="rna_type")[i].argmax())]
        assert one.values.sum() == pytest.approx(1, abs=1e-6)
        many = found["traits"][i]
        assert isinstance(many, SequencePrediction)
        assert many.labels == tuple(n for n, p in zip(("nuclear", "short"), many.values, strict=True) if p > 0.5)
        yes = found["coding"][i]
        assert isinstance(yes, SequencePrediction)
        assert yes.positive == (yes.values[0] > 0.2)
        value = found["halflife"][i]
        assert isinstance(value, SequencePrediction)
        assert value.value == pytest.approx(float(loaded.logits([seq], head="halflife")[0][0]), rel=1e-4, abs=1e-5)
        loop = found["loop"][i]
        assert isinstance(loop, TokenPrediction)
        assert loop.labels is not None
        assert set(loop.labels) <= {"stem", "loop"}
        assert len(loop.labels) == len(seq)
        fold = found["fold"][i]
        assert isinstance(fold, ContactPrediction)
        assert fold.structure is not None
        assert fold.probabilities is not None
        assert len(fold.structure.dot_bracket) == len(seq)
        upper = np.triu(fold.probabilities, 1)
        assert set(zip(fold.i.tolist(), fold.j.tolist(), strict=True)) == set(
            zip(*(axis.tolist() for axis in np.nonzero(upper > 0.5)), strict=True)
        )
        assert np.array_equal(fold.score, fold.probabilities[fold.i, fold.j])
        touch = found["touch"][i]
        assert isinstance(touch, ContactPrediction)
        assert touch.structure is None
        assert touch.label is not None
    assert loaded.predict(SEQS, "near", dense=False)["near"][0].probabilities is None  # type: ignore[union-attr]
    lower = loaded.predict(SEQS, "near", threshold=0.05)["near"][0]
    higher = loaded.predict(SEQS, "near", threshold=0.9)["near"][0]
    assert isinstance(lower, ContactPrediction)
    assert isinstance(higher, ContactPrediction)
    assert len(lower.i) > len(higher.i)


def test_card_examples(loaded: Model) -> None:
    """The model card's examples: one 21-nt sequence, a fresh head, labels with no batch dimension."""
    text = "UAGCUUAUCAGACUGAUGUUG"
    n = len(text)
    random = np.random.default_rng(0)
    fresh = {
        "s": (HeadConfig("sequence", "binary"), np.array([1])),
        "t": (HeadConfig("token", "binary"), random.integers(2, size=n)),
        "c": (HeadConfig("contact", "binary"), random.integers(2, size=(n, n))),
        "ss": (HeadConfig("structure"), torch.from_numpy(random.integers(2, size=(n, n)))),
    }
    for name, (config, labels) in fresh.items():
        if name not in loaded.heads:
            loaded.add_head(name, config, seed=3)
        loss = loaded.loss([text], labels, head=name)
        assert np.isfinite(loss)
        assert loaded.loss([text], labels[None] if name != "s" else labels, head=name) == loss
        with pytest.raises(ModelError, match="never trained"):
            loaded.predict([text], name)
        with pytest.raises(ModelError, match="never trained"):
            loaded.logits([text], head=name)
    ids = loaded.alphabet.encode([text])[0].astype(np.int64)
    assert np.isfinite(loaded.loss([text], ids, head="masked_lm"))


def test_losses_count_what_is_labelled(loaded: Model) -> None:
    seqs, labels = ["ACGUAC", "GGC"], [[0, 1, -100, 0, 1, 1], [1, -100, 0]]
    whole = loaded.loss(seqs, labels, head="loop")
    logits = np.concatenate(loaded.logits(seqs, head="loop"))
    flat = np.concatenate([np.array(row) for row in labels])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(flat), ignore_index=-100)
    assert whole == pytest.approx(float(expected), rel=1e-5)
    padded = np.array([labels[0], [*labels[1], -100, -100, -100]])
    assert loaded.loss(seqs, padded, head="loop") == pytest.approx(whole, rel=1e-6)
    assert loaded.loss(seqs[::-1], labels[::-1], head="loop") == pytest.approx(whole, rel=1e-6)
    with pytest.raises(ModelError, match="nothing is labelled"):
        loaded.loss(["ACG"], [[-100] * 3], head="loop")
    with pytest.raises(ModelError, match="sequence 2"):
        loaded.loss(seqs, [labels[0], [1, 0]], head="loop")


def test_heads_in_the_checkpoint_and_beside_it(loaded: Model, tmp_path: Path) -> None:
    """Saved into a checkpoint, the same heads under multimolecule's names; as adapters, files that fit one trunk."""
    loaded.save(tmp_path / "whole", heads=["rna_type", "loop", "touch", "fold"])
    again = model.load(tmp_path / "whole")
    assert list(again.heads) == ["sequence", "token", "contact", "structure"]
    assert again.heads["sequence"].config == CONFIGS["rna_type"]
    names = {"sequence": "rna_type", "token": "loop", "contact": "touch", "structure": "fold"}
    for kind, name in names.items():
        for ours, theirs in zip(again.logits(SEQS, head=kind), loaded.logits(SEQS, head=name), strict=True):
            assert np.array_equal(ours, theirs)
    with pytest.raises(ModelError, match="say which is meant"):
        again.logits(SEQS)
    settings = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert settings["tie_word_embeddings"] is True
    again.save(tmp_path / "twice")
    assert model.fingerprint(tmp_path / "twice") == again.fingerprint
    file = loaded.save_head("coding", tmp_path / "coding.safetensors", trained=True)
    with pytest.raises(CheckpointError, match="trained on another trunk"):
        again.load_head(file)
    mine = again.save_head("sequence", tmp_path / "mine.safetensors", trained=True)
    assert again.load_head(mine) == "mine"
    assert np.array_equal(again.logits(SEQS, head="mine")[0], again.logits(SEQS, head="sequence")[0])
    settings = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (settings["architectures"], settings["num_labels"]) == (["AidoRnaForSequencePrediction"], 3)
    loaded.save(tmp_path / "fold", heads=["fold"])
    # What multimolecule reads as the bias of the convolutions, which have none.
    assert json.loads((tmp_path / "fold" / "config.json").read_text())["head"]["bias"] is False
    with pytest.raises(ModelError, match="one head of a kind"):
        again.save(tmp_path / "two", heads=["sequence", "mine"])


def test_a_trained_head_on_an_untrained_trunk(fresh: Path, tmp_path: Path) -> None:
    trunk = model.load(fresh)
    trunk.add_head("fold", HeadConfig("structure"))
    for trained in (True, False):
        trunk.save_head("fold", tmp_path / f"{trained}.safetensors", trained=trained)
        trunk.save(tmp_path / f"{trained}", heads=["fold"])
        again = model.load(tmp_path / f"{trained}")
        assert again.trained is False
        assert again.heads["structure"].trained is trained
        assert find_heads(tmp_path / f"{trained}")["structure"].trained is trained
    model.convert.convert(tmp_path / "True", tmp_path / "converted")
    assert model.load(tmp_path / "converted").predict(["GGGAAACCC"])["structure"]


def test_the_only_head_is_the_default(loaded: Model, tmp_path: Path) -> None:
    loaded.save(tmp_path / "one", heads=["near"])
    one = model.load(tmp_path / "one")
    assert one.logits(["GGC"])[0].shape == (3, 3, 1)
    assert list(one.predict(["GGC"])) == ["contact"]
    # Of the checkpoint's own heads only: adapters beside it do not change what logits means.
    assert loaded.logits(["GGC"])[0].shape == (5, 26)


def test_refusals(tiny: Path, loaded: Model, tmp_path: Path) -> None:
    bare = model.load(tiny)
    with pytest.raises(ModelError, match=r"has no head 'rna_type'; it has none"):
        bare.predict(SEQS, "rna_type")
    with pytest.raises(ModelError, match=r"has no head 'nose'; it has: coding, fold"):
        loaded.predict(SEQS, "nose")
    with pytest.raises(SequenceError, match="sequence 2 of the list is empty"):
        loaded.predict(["ACGU", ""], "fold")
    with pytest.raises(ModelError, match="threshold must be a probability"):
        loaded.predict(SEQS, "fold", threshold=1.5)
    with pytest.raises(ModelError, match="fill_mask"):
        loaded.predict(SEQS, "masked_lm")
    untrained = tmp_path / "untrained"
    shutil.copytree(tiny, untrained)
    _add(untrained, {"fold": CONFIGS["fold"]}, trained=False)
    with pytest.raises(ModelError, match="never trained"):
        model.load(untrained).predict(SEQS, "fold")
    silent = tmp_path / "silent"
    shutil.copytree(tiny, silent)
    _add(silent, {"what": HeadConfig("sequence")})
    with pytest.raises(ModelError, match="settings of the head 'what' do not say what it predicts"):
        model.load(silent).predict(SEQS, "what")
    assert model.load(silent).logits(["GG"], head="what")[0].shape == (1,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "damaged or cut short"),
        (lambda file: file.write_bytes(b""), "damaged or cut short"),
        (lambda file: file.rename(file.with_name("my head.safetensors")), "cannot name a head"),
    ],
)
def test_damaged_adapters(tiny: Path, tmp_path: Path, damage, message: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny, folder)
    _add(folder, {"fold": CONFIGS["fold"]})
    damage(folder / "heads" / "fold.safetensors")
    with pytest.raises(CheckpointError, match=message):
        find_heads(folder)
    # What needs no head is not held up by it.
    assert model.load(folder).embed(["GGC"]).shape == (1, 32)


def test_adapters_of_a_wrong_shape(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tiny, folder)
    write = {"trunk": model.fingerprint(folder), "trained": True}
    head = make_head(CONFIGS["loop"], 32)
    write_adapter(folder / "heads" / "a.safetensors", head, CONFIGS["reactivity"], **write)
    write_adapter(folder / "heads" / "b.safetensors", make_head(CONFIGS["loop"], 16), CONFIGS["loop"], **write)
    write_adapter(folder / "heads" / "c.safetensors", head, CONFIGS["fold"], **write)
    loaded = model.load(folder)
    assert loaded.logits(["GG"], head="a")[0].shape == (2, 2)  # two outputs a nucleotide, whatever they are called
    with pytest.raises(CheckpointError, match=r"shape \[2, 16\], a trunk of width 32"):
        loaded.predict(["GG"], "b")
    with pytest.raises(CheckpointError, match="missing"):
        loaded.predict(["GG"], "c")


def test_attentions_are_probabilities(loaded: Model) -> None:
    maps = loaded.attentions(SEQS, max_tokens=10)
    for seq, one in zip(SEQS, maps, strict=True):
        assert one.shape == (2, 4, len(seq) + 2, len(seq) + 2)
        assert np.abs(one.sum(-1) - 1).max() < 1e-5
        _close(one, loaded.attentions([seq])[0])
    with pytest.raises(SequenceError, match="1023 nucleotides"):
        loaded.attentions(["A" * 1023])
    assert loaded.attentions(["A" * 1023], truncate=True)[0].shape[-1] == 1024


def test_the_life_of_a_head(tiny: Path, tmp_path: Path) -> None:
    """Made, trained elsewhere, saved, loaded; what fails leaves nothing behind."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    loaded = model.load(folder)
    before = torch.random.get_rng_state()
    loaded.add_head("fold", CONFIGS["fold"])
    assert torch.equal(before, torch.random.get_rng_state())
    for name in ("fold", "Fold", "masked_lm"):
        with pytest.raises(ModelError, match=r"called 'fold' already|name of the masked-LM head"):
            loaded.add_head(name, CONFIGS["fold"])
    file = loaded.save_head("fold", trained=False)
    with pytest.raises(ModelError, match="never trained"):
        loaded.predict(["GGC"], "fold")
    assert loaded.save_head("fold", trained=True) == file == folder / "heads" / "fold.safetensors"
    assert loaded.heads["fold"].path == file
    assert loaded.load_head(file) == "fold"
    assert loaded.predict(["GGC"], "fold")["fold"]
    broken = tmp_path / "loop.safetensors"
    write_adapter(broken, make_head(CONFIGS["loop"], 16), CONFIGS["loop"], trunk=loaded.fingerprint, trained=True)
    with pytest.raises(CheckpointError, match="trunk of width 32"):
        loaded.load_head(broken)
    assert list(loaded.heads) == ["fold"]
    write_adapter(broken, make_head(CONFIGS["loop"], 32), CONFIGS["loop"], trunk=loaded.fingerprint, trained=True)
    assert loaded.load_head(broken) == "loop"
    head = loaded.head_module("loop")
    for place in range(8):
        write_adapter(
            tmp_path / f"{place}" / "one.safetensors", head, CONFIGS["loop"], trunk=loaded.fingerprint, trained=True
        )
    assert len({path.read_bytes() for path in tmp_path.glob("*/one.safetensors")}) == 1, "a head has one fingerprint"
    # A file takes the place of a head that the checkpoint came with, but not of one that was loaded from another file.
    again = model.load(folder)
    wanted = loaded.logits(["GGC"], head="loop")[0]
    for place in ("one", "two"):
        path = tmp_path / place / "fold.safetensors"
        write_adapter(path, loaded.head_module("loop"), CONFIGS["loop"], trunk=loaded.fingerprint, trained=True)
    assert again.load_head(path) == "fold"
    assert again.load_head(tmp_path / "one" / "fold.safetensors") == "fold"
    capital = shutil.copy(path, tmp_path / "Fold.safetensors")
    assert again.load_head(capital) == "fold", "one name in capitals and small letters"
    assert (list(again.heads), again.heads["fold"].path) == (["fold"], path)
    assert np.array_equal(again.logits(["GGC"], head="fold")[0], wanted)
    with pytest.raises(ModelError, match="another head called 'fold' already; rename the file"):
        again.load_head(file)
    loaded.save(tmp_path / "whole", heads=["loop"])
    whole = model.load(tmp_path / "whole")
    # It would stand beside the checkpoint's own head of that name.
    with pytest.raises(ModelError, match="a head called 'token' of its own"):
        whole.save_head("token", trained=True)
    assert whole.logits(["GGC"])[0].shape == (3, 2)


def test_a_damaged_adapter_is_in_nobodys_way(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "heads" / "aaa.safetensors").write_bytes(b"nothing")
    loaded = model.load(copy)
    assert loaded.logits(["GGC"])[0].shape == (5, 26)
    assert loaded.predict(["GGC"], "fold")["fold"]
    with pytest.raises(CheckpointError, match=r"aaa\.safetensors cannot be read"):
        loaded.predict(["GGC"], "aaa")
    with pytest.raises(CheckpointError, match=r"aaa\.safetensors cannot be read"):
        _ = loaded.heads


def test_no_dropout_in_answers(tiny: Path) -> None:
    loaded = model.load(tiny)
    config = HeadConfig("token", "multiclass", 2, dropout=0.5)
    loaded.add_head("drop", config)
    labels = [[0, 1, 1]]
    module = loaded.head_module("drop").train()
    assert len({loaded.loss(["GGC"], labels, head="drop") for _ in range(4)}) == 1
    assert module.training


@pytest.mark.parametrize("name", list(CONFIGS))
def test_what_is_no_number_is_refused(folder: Path, name: str) -> None:
    loaded = model.load(folder)
    with torch.no_grad():
        next(iter(loaded.head_module(name).parameters())).fill_(float("nan"))
    with pytest.raises(SequenceError, match="gives no numbers"):
        loaded.predict(["GGC"], name)
    with torch.no_grad():
        loaded.module.final_norm.weight.fill_(float("nan"))  # type: ignore[union-attr]
    for call in (loaded.variants, loaded.fill_mask, loaded.pseudo_log_likelihood):
        with pytest.raises(SequenceError, match="the masked LM gives no numbers"):
            call(["GG<mask>C"])


def test_maps_have_a_longest_sequence(loaded: Model) -> None:
    with pytest.raises(SequenceError, match=r"8,193 nucleotides, and maps of pairs are made for 8,192 at most"):
        loaded.predict(["A" * 8193], "near")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_heads_on_a_trunk_of_halves(folder: Path, loaded: Model, dtype: str) -> None:
    halves = model.load(folder, dtype=dtype)
    for name, config in CONFIGS.items():
        assert next(halves.head_module(name).parameters()).dtype == torch.float32
        for half, full in zip(halves.logits(SEQS, head=name), loaded.logits(SEQS, head=name), strict=True):
            assert np.abs(half - full).max() <= 0.15 * max(1.0, np.abs(full).max()), config


def test_truncated_masked_lm_loss(tiny: Path, tmp_path: Path) -> None:
    """Labels are those of the whole text; what is read keeps its own and <eos>'s."""
    short = tmp_path / "short"
    shutil.copytree(tiny, short)
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 8}))
    loaded = model.load(short)
    text, labels = "ACGUACGGA", [1, 6, 7, 8, 9, 6, 7, 8, 8, 6, 3]
    cut = [*labels[:7], labels[-1]]
    assert loaded.loss([text], [labels], long="truncate") == pytest.approx(loaded.loss([text[:6]], [cut]), rel=1e-6)
    for wrong in (5, None, [["a"] * 11], [[1.5] * 11]):
        with pytest.raises(ModelError):
            loaded.loss([text], wrong)
