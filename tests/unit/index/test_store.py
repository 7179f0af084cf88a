"""The manifest's sets, and the files that belong to them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.errors import StoreError
from index.schema import REJECTS
from index.sql import query
from index.store import Store

RECORDS = [("A", "", "ACGU"), ("B", "", "GGGG")]


def test_sets_come_back_as_they_were_put(builder):
    store = builder.store(RECORDS)
    vectors = builder.embedding()
    made = builder.prediction(head="rna_type", head_path="heads/rna_type.safetensors", head_fingerprint="h" * 64)
    structure = builder.prediction("fold", "structure", "binary", ["pair"], threshold=0.4, pseudoknots=True)
    for put in (made, structure):
        store.put_prediction(put)
    store.put_embedding(vectors)
    store = Store.open(store.root)
    assert store.predictions == {"rna_type": made, "fold": structure}
    assert store.prediction("fold") == structure
    assert store.embeddings == {"nano": vectors}
    changed = replace(made, threshold=0.9, settings={"batch": 3})
    store.put_prediction(changed)
    assert Store.open(store.root).predictions == {"rna_type": changed, "fold": structure}
    assert json.loads((store.root / "store.json").read_text())["predictions"]["fold"]["task"] == "structure"


def test_sets_are_frozen_and_named_by_keyword(builder):
    made = builder.prediction()
    with pytest.raises(FrozenInstanceError):
        made.name = "other"
    with pytest.raises(TypeError, match="positional"):
        type(made)("rna_type")


def test_folders(builder):
    assert builder.embedding().folders == ("embeddings",)
    assert replace(builder.embedding(), per_token=True).folders == ("embeddings", "tokens")
    assert builder.prediction().folders == ("predictions",)


def test_a_store_of_before_there_were_predictions(builder):
    store = builder.store(RECORDS)
    manifest = json.loads((store.root / "store.json").read_text())
    manifest.pop("predictions", None)
    (store.root / "store.json").write_text(json.dumps(manifest))
    store = Store.open(store.root)
    assert store.predictions == {}
    with pytest.raises(StoreError, match="no predictions called 'rna_type'; make some with: raypipe predict"):
        store.prediction("rna_type")
    with store.lock():
        store.put_prediction(builder.prediction())
    assert list(Store.open(store.root).predictions) == ["rna_type"]
    with pytest.raises(StoreError, match="no predictions called 'fold'; there are: rna_type"):
        store.prediction("fold")


def test_a_manifest_with_unknown_fields_is_damaged(builder):
    store = builder.store(RECORDS)
    store.put_prediction(builder.prediction())
    manifest = json.loads((store.root / "store.json").read_text())
    manifest["predictions"]["rna_type"]["colour"] = "red"
    (store.root / "store.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"damaged manifest .*colour"):
        Store.open(store.root)


def test_parts_of_sets(builder, vectors):
    store = builder.embedded(vectors[:6], parts=2)
    tokens = store.root / "tokens" / "nano" / "part-000000.parquet"
    tokens.parent.mkdir(parents=True)
    tokens.touch()
    made = builder.prediction("nano", "sequence", "regression", ["value"])
    files = [builder.write_predictions(store, made, number, [{"seq_id": number, "value": 1}]) for number in (1, 0)]
    (files[0].parent / "plan.parquet").touch()
    assert store.set_parts(made) == sorted(files)
    assert len(store.set_parts(store.embedding())) == 2
    assert store.set_parts(store.embedding(), "tokens") == [tokens]
    assert store.set_parts(builder.prediction("other")) == []


def test_rejects_of_runs_are_found(builder):
    store = builder.store(RECORDS)
    for name in ("part-embed-nano-000000", "part-predict-rna_type-000000", "part-other-x-000000", "part-00007-00000"):
        row = {"source": name, "line": None, "id": None, "seq_id": 1, "reason": "too long"}
        pq.write_table(pa.Table.from_pylist([row], schema=REJECTS), store.root / "rejects" / f"{name}.parquet")
    assert query(store, "SELECT source FROM rejects ORDER BY 1")["source"].to_pylist() == [
        "part-embed-nano-000000",
        "part-predict-rna_type-000000",
    ]
