"""From an atlas with annotations to what training reads: parts, weights, families."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.annotations import annotate
from index.sql import query
from index.store import Store
from model.alphabet import Alphabet
from raypipe.errors import InputError, UsageError
from raypipe.ingest import ingest
from raypipe.splits import part_of
from raypipe.training.corpus import (
    LEFT_OUT,
    TRAIN,
    VALID,
    Corpus,
    cluster_place,
    make_corpus,
    open_corpus,
    read_about,
)
from raypipe.training.labels import UNKNOWN, group_names, read_labels
from raypipe.training.settings import PretrainSettings
from tests.pretraining import write_run_inputs

FAMILIES: dict[str, Any] = {"family_column": "family", "clan_column": "clan"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """12 families of 6, two of them of one clan, 40 others, one with an N; two of these repeat another."""
    folder = tmp_path_factory.mktemp("corpus")
    write_run_inputs(folder)
    with (folder / "in.fa").open("a") as fasta:
        fasta.write(">odd\nACGNNACGU\n")
    (folder / "clusters.tsv").write_text(
        "id\tcluster\n" + "".join(f"r{number}\tc{number // 10}\n" for number in range(40))
    )
    store = Store.open_or_create(folder / "atlas")
    with store.lock():
        ingest(store, str(folder / "in.fa"))
        annotate(store, {"families": folder / "families.tsv", "clusters": folder / "clusters.tsv"})
    return store


def made(store: Store, tmp_path: Path, **settings: Any) -> Corpus:
    return make_corpus(tmp_path / "corpus", store, PretrainSettings(**settings), Alphabet())


def column(store: Store, name: str) -> np.ndarray:
    """An annotation of every sequence by its seq_id, "" where there is none."""
    found = query(store, f"SELECT seq_id, {name} FROM families")
    values = np.full(store.num_sequences, "", dtype=object)
    for row, value in zip(found["seq_id"].to_pylist(), found[name].to_pylist(), strict=True):
        values[row] = value or ""
    return values


def test_it_holds_every_sequence(store: Store, tmp_path: Path) -> None:
    corpus = made(store, tmp_path, valid_share=0)
    texts = query(store, "SELECT sequence FROM sequences ORDER BY seq_id")["sequence"].to_pylist()
    letters = np.array(Alphabet().tokens)
    assert ["".join(letters[corpus[row]]) for row in range(len(corpus))] == texts
    assert (corpus.part == TRAIN).all()
    assert (corpus.weight == 1).all()
    assert (corpus.family == UNKNOWN).all()
    about = read_about(tmp_path / "corpus")
    assert about["trained_on"] == about["sequences"] == len(texts) == 111
    assert about["nucleotides"] == sum(map(len, texts))
    assert about["sources"][0]["name"] == "in.fa"
    assert about["sources"][0]["sha256"] == store.sources[0].sha256


def test_by_default_sequences_are_split_by_their_digest(store: Store, tmp_path: Path) -> None:
    corpus = made(store, tmp_path, valid_share=0.2)
    digests = query(store, "SELECT md5 FROM sequences ORDER BY seq_id")["md5"].to_pylist()
    assert [part == VALID for part in corpus.part] == [part_of(text, {"valid": 0.2}) == "valid" for text in digests]
    assert 10 < (corpus.part == VALID).sum() < 40


def test_clusters_are_kept_together(store: Store, tmp_path: Path) -> None:
    corpus = made(store, tmp_path, valid_share=0.5, valid_column="cluster")
    found = query(store, "SELECT seq_id, cluster FROM clusters")
    for row, cluster in zip(found["seq_id"].to_pylist(), found["cluster"].to_pylist(), strict=True):
        assert (corpus.part[row] == VALID) == (cluster_place(cluster) < 0.5)
    assert {cluster_place(f"c{number}") < 0.5 for number in range(4)} == {True, False}


def test_a_split_by_families_is_not_that_of_the_families_that_are_held_out() -> None:
    """Or nothing would be left to validate on."""
    chosen = [name for number in range(2000) if cluster_place(name := f"RF{number:05d}") < 0.05]
    assert 60 < len(chosen) < 140
    assert 0.7 < sum(part_of(name) != "test" for name in chosen) / len(chosen) < 0.95


def test_families_of_the_test_split_are_left_out_with_their_clan(store: Store, tmp_path: Path) -> None:
    corpus = made(store, tmp_path, valid_share=0, hold_out_families=True, **FAMILIES)
    families, clans = column(store, "family"), column(store, "clan")
    expected = {"train": TRAIN, "valid": VALID, "test": LEFT_OUT}
    for row, family in enumerate(families):
        assert corpus.part[row] == (expected[part_of(clans[row] or family)] if family else TRAIN)
    # RF00011 is of the test split, see tests/unit/test_splits.py.
    assert (corpus.part[families == "RF00011"] == LEFT_OUT).all()
    assert len(set(corpus.group[clans == "CL1"])) == 1
    assert len(set(corpus.family[clans == "CL1"])) == 2
    assert len(set(corpus.group[corpus.group != UNKNOWN])) == 11


def test_kin_without_a_label_is_left_out_too(tmp_path: Path) -> None:
    dice = random.Random(4)
    texts = {f"s{number}": "".join(dice.choices("ACGU", k=60)) for number in range(20)}
    texts["kin"] = "GGG" + texts["s0"][10:50]
    texts["distant"] = "GGG" + texts["s0"][10:41]
    (tmp_path / "in.fa").write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    # RF00011 is of the test split. s2 has another family beside it, one that is trained on.
    table = "id\tfamily\ns0\tRF00011\ns1\tRF00001\ns2\tRF00011\ns2\tRF00001\n"
    (tmp_path / "families.tsv").write_text(table)
    assert part_of("RF00001") == "train"
    store = Store.open_or_create(tmp_path / "atlas")
    with store.lock():
        ingest(store, str(tmp_path / "in.fa"))
        annotate(store, {"families": tmp_path / "families.tsv"})
    ids = query(store, "SELECT seq_id, id FROM records ORDER BY seq_id")["id"].to_pylist()
    for like, expected in ((True, {"s0", "s2", "kin"}), (False, {"s0", "s2"})):
        corpus = made(
            store,
            tmp_path / str(like),
            valid_share=0,
            hold_out_families=True,
            hold_out_like=like,
            family_column="family",
            clan_column="none",
        )
        assert {ids[row] for row in np.flatnonzero(corpus.part == LEFT_OUT)} == expected
        assert corpus.about["held_out"] == {"families": 1, "sequences": 2, "like_them": int(like)}
    (table,) = corpus.about["annotations"]
    assert table == {"name": "families", "sha256": sha256((tmp_path / "families.tsv").read_bytes()).hexdigest()}


def test_a_family_has_the_clan_of_its_own_rows(tmp_path: Path) -> None:
    """As for `raypipe eval retrieval`: a sequence of two families does not lend one the clan of the other."""
    texts = ["ACGUACGUAC", "GGCUUACGAA", "CCAUAGGCUU", "UUGACCAGUA"]
    (tmp_path / "in.fa").write_text("".join(f">s{number}\n{text}\n" for number, text in enumerate(texts)))
    rows = ["s0\tRFA\t", "s0\tRFB\tCL1", "s1\tRFA\t", "s2\tRFC\tCL1", "s2\tRFC\tCL1", "s3\tRFC\tCL2"]
    (tmp_path / "rfam.tsv").write_text("\n".join(["id\tfamily\tclan", *rows]) + "\n")
    (tmp_path / "clans.tsv").write_text("id\tapart\ns0\tCL1\ns2\tCL1\ns3\tCL2\n")
    store = Store.open_or_create(tmp_path / "atlas")
    with store.lock():
        ingest(store, str(tmp_path / "in.fa"))
        annotate(store, {"rfam": tmp_path / "rfam.tsv", "clans": tmp_path / "clans.tsv"})
    families = read_labels(store, "family", "family_column", 4)
    assert families.names == ("RFA", "RFB", "RFC")
    own = read_labels(store, "clan", "clan_column", 4)
    assert group_names(store, families, own) == ["RFA", "CL1", "CL1"]
    # From another table it is that of its sequences.
    apart = read_labels(store, "apart", "clan_column", 4)
    assert group_names(store, families, apart) == ["CL1", "CL1", "CL1"]
    assert group_names(store, families, read_labels(store, None, "clan_column", 4)) == ["RFA", "RFB", "RFC"]


def test_holding_out_where_there_is_nothing_to_hold_out(store: Store, tmp_path: Path) -> None:
    assert part_of("rRNA") == part_of("tRNA") == part_of("other") == "train"
    with pytest.raises(UsageError, match="hold_out_families: none of the 3 families here is of the test split"):
        made(store, tmp_path, hold_out_families=True, family_column="rna_type", clan_column="none")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_types_are_weighted_and_families_capped(store: Store, tmp_path: Path) -> None:
    settings = {"type_column": "rna_type", "type_weights": {"rRNA": 0.25, "other": 3.0}, "valid_share": 0.1}
    corpus = made(store, tmp_path, family_cap=3, **settings, **FAMILIES)
    types, families = column(store, "rna_type"), column(store, "family")
    for row, kind in enumerate(types):
        weight = {"rRNA": 0.25, "other": 3.0}.get(kind, 1.0)
        if families[row] and corpus.part[row] == TRAIN:
            size = ((families == families[row]) & (corpus.part == TRAIN)).sum()
            weight = min(weight, 3 / size)
        assert corpus.weight[row] == pytest.approx(weight)


def test_longer_ones_are_left_out(store: Store, tmp_path: Path) -> None:
    corpus = made(store, tmp_path, valid_share=0, max_length=30)
    assert np.array_equal(corpus.part == LEFT_OUT, corpus.lengths > 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type_column": "nothing"},
            "type_column: 'nothing' is no annotation column; there are: clusters.cluster, fam",
        ),
        ({"family_column": "clusters.family"}, "family_column: 'clusters.family' is no annotation column"),
        (
            {"type_column": "rna_type", "type_weights": {"rrna": 0.1}},
            "type_weights: no sequence is of type rrna; there are: other, rRNA, tRNA",
        ),
    ],
)
def test_columns_that_are_not_there(store: Store, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(store, tmp_path, **settings)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_left_to_train_on(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sequence is left to train on; see max_length"):
        made(store, tmp_path, max_length=5)
    with pytest.raises(InputError, match="no sequence is left to train on"):
        made(store, tmp_path, valid_share=0.9999)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_corpus_is_named(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    made(store, tmp_path)
    ids = (folder / "ids.u8").read_bytes()
    (folder / "ids.u8").write_bytes(ids[:-5])
    with pytest.raises(InputError, match=rf"{folder}: the corpus of this run is damaged \(ids.u8 holds "):
        open_corpus(folder)
    (folder / "ids.u8").write_bytes(ids)
    open_corpus(folder)
    (folder / "part.npy").write_bytes((folder / "part.npy").read_bytes()[:150])
    with pytest.raises(InputError, match="the corpus of this run is damaged"):
        open_corpus(folder)
