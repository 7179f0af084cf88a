"""Files of labelled sequences, and which of their rows are taught."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError, UsageError
from raypipe.finetuning.examples import Examples
from raypipe.finetuning.rows import Rejects
from raypipe.finetuning.selection import prepare, reasons
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.sources import read_rows
from raypipe.splits import part_of


def settings(task: Any, *data: Path, **more: Any) -> FinetuneSettings:
    return FinetuneSettings(task=task, data=list(data), output=Path("out"), **more)


def ready(given: FinetuneSettings) -> tuple[Examples, Rejects]:
    rejects = Rejects()
    return prepare(given, 1022, rejects)[0], rejects


def test_dot_bracket_files(tmp_path: Path) -> None:
    """With names, comments, energies, broken lines and Windows' line ends; bpRNA's header."""
    path = tmp_path / "in.dbn"
    path.write_bytes(
        b"# made by hand\r\n>one about it\r\ngggAAAccc\r\n(((...))) (-1.20)\r\n\r\n>two\nGGGT\nAAACCC\n((((\n..))))\n"
        b"#Name: bpRNA_1\n#Length: 4\nGAUC\n(..)\n>fasta\nGGGAAACCC\n>letters\nGGXJ\n(..)\n"
    )
    rejects = Rejects()
    rows, columns, total = read_rows(settings("structure", path), rejects)
    assert [(row.line, row.id, row.sequence, row.values["structure"]) for row in rows] == [
        (2, "one", "GGGAAACCC", "(((...)))"),
        (6, "two", "GGGUAAACCC", "((((..))))"),
        (11, "bpRNA_1", "GAUC", "(..)"),
    ]
    assert (columns, total) == (["structure"], 5)
    assert [(row.line, row.id) for row in rejects.rows] == [(15, "fasta"), (17, "letters")]
    assert "FASTA needs --table" in rejects.rows[0].reason


def test_a_table_without_ids_and_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "in.csv.gz"
    import gzip

    text = 'seq;what\nacgt;"a;b"\nACGU\n\nGGCC;x\n;x\n'
    path.write_bytes(gzip.compress(text.encode()))
    rejects = Rejects()
    rows, _, total = read_rows(settings("sequence", path, labels=["what"]), rejects)
    assert [(row.line, row.id, row.sequence, row.values["what"]) for row in rows] == [
        (2, "row_2", "ACGU", "a;b"),
        (5, "row_5", "GGCC", "x"),
    ]
    assert [(row.line, row.reason) for row in rejects.rows] == [
        (3, "1 columns where the header has 2"),
        (6, "empty sequence"),
    ]
    assert total == 4


def test_files_that_are_none(tmp_path: Path) -> None:
    def refused(name: str, content: bytes, task: str = "sequence", **more: Any) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises((InputError, UsageError)) as error:
            read_rows(settings(task, tmp_path / name, **more), Rejects())
        return str(error.value)

    with pytest.raises(InputError, match="no such file"):
        read_rows(settings("token", tmp_path / "x"), Rejects())
    assert "empty, there is no header" in refused("a.tsv", b"")
    assert "quotation mark without its partner" in refused("b.csv", b'sequence,y\n"ACGU,1\n', labels=["y"])
    assert "damaged or no Parquet file" in refused("c.parquet", b"PAR1 nonsense")
    assert "no sequence column 'sequence' or 'seq'" in refused("d.tsv", b"id\ty\n1\t2\n", labels=["y"])
    assert "2 columns are called 'y'" in refused("e.tsv", b"sequence\ty\ty\n", labels=["y"])
    assert "no table and no dot-bracket file" in refused("f.txt", b"hello", "structure")
    assert "holds no labels of sequences" in refused("g.fa", b">a\nACGU\n")
    assert "need a table" in refused("h.dbn", b">a\nAC\n..\n", "structure", group_column=["x"])
    assert "bpseq, line 2: nucleotide 1 pairs with 3" in refused("i.bpseq", b"# x\n1 A 3\n2 C 0\n3 G 0\n", "structure")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a folder without"):
        read_rows(settings("structure", tmp_path / "folder"), Rejects())


def test_ids_that_join_twice(tmp_path: Path) -> None:
    fasta, table = tmp_path / "in.fa", tmp_path / "in.tsv"
    fasta.write_text(">a\nACGU\n>b\nGGGG\n>a\nUUUU\n>c\nAAAA\n")
    table.write_text("id\tkind\na\tx\nb\ty\nb\tz\na\tx\n\tx\n")
    rejects = Rejects()
    rows, _, _ = read_rows(settings("sequence", fasta, table=table, labels=["kind"]), rejects)
    assert [(row.id, row.sequence, row.values["kind"]) for row in rows] == [("a", "ACGU", "x"), ("b", "GGGG", "y")]
    assert [(Path(row.file).name, row.line, row.id) for row in rejects.rows] == [
        ("in.tsv", 4, "b"),
        ("in.tsv", 6, None),
        ("in.fa", 5, "a"),
    ]


def families(path: Path, number: int = 300) -> Path:
    """Sequences of 60 families, some of which are in clans, some without a family."""
    dice = np.random.default_rng(3)
    seqs = ["".join(dice.choice(list("ACGU"), 20)) for _ in range(number)]
    table = {
        "id": [f"s{k}" for k in range(number)],
        "sequence": seqs,
        "kind": [("a", "b", "c")[k % 3] for k in range(number)],
        "family": [None if k % 60 == 7 else f"RF{k % 60}" for k in range(number)],
        "clan": [f"CL{k % 60 // 20}" if k % 60 >= 40 else "" for k in range(number)],
        "value": dice.normal(size=number),
    }
    pq.write_table(pa.table(table), path)
    return path


def test_groups_stay_together(tmp_path: Path) -> None:
    path = families(tmp_path / "in.parquet")
    shares = {"valid": 0.2, "test": 0.3}
    found, _ = ready(settings("sequence", path, labels=["kind"], group_column=["clan", "family"], **shares))
    columns = pq.read_table(path).to_pydict()
    groups = [clan or family for clan, family in zip(columns["clan"], columns["family"], strict=True)]
    for group in set(filter(None, groups)):
        assert len({str(found.parts[k]) for k, one in enumerate(groups) if one == group}) == 1
        assert found.parts[groups.index(group)] == part_of(group, {"test": 0.3, "valid": 0.2})
    # Without a group each sequence goes by itself.
    assert {str(found.parts[k]) for k, one in enumerate(groups) if one is None} > {"train"}
    alone, _ = ready(settings("sequence", path, labels=["kind"], **shares))
    assert (alone.parts == "test").mean() == pytest.approx(0.3, abs=0.08)
    assert (alone.parts == "valid").mean() == pytest.approx(0.2, abs=0.08)


def test_samples_are_the_same_and_grow(tmp_path: Path) -> None:
    path = families(tmp_path / "in.parquet")

    def ids(**more: Any) -> set[str]:
        return set(ready(settings("sequence", path, labels=["kind"], **more))[0].ids)

    few, more = ids(sample=60), ids(sample=120)
    assert (len(few), len(more)) == (60, 120)
    assert few < more
    each = ready(settings("sequence", path, labels=["kind"], max_per_class=20))[0]
    assert sorted(np.bincount([int(one) for one in each.labels])) == [20, 20, 20]
    with pytest.raises(UsageError, match="for sequences of one class each"):
        ids(max_per_class=3, problem="regression", rename=["a=1", "b=2", "c=3"])


def test_conditions_renames_and_lengths(tmp_path: Path) -> None:
    path = families(tmp_path / "in.parquet")
    given = settings("sequence", path, labels=["kind"], where="family <> 'RF1' -- a comment", rename=["c=", "a=z"])
    found, rejects = ready(given)
    assert found.space.names == ("b", "z")
    assert len(found) + rejects.kinds["unlabelled"] + rejects.unread == 300
    assert rejects.unread == 10  # five of the family, five without one: NULL is not unequal
    assert f"{rejects.kinds['unlabelled']} unlabelled, 10 not chosen by --where" == reasons(rejects)
    with pytest.raises(InputError, match="no labelled sequence is left of 300 rows \\(300 longer than 10 nt\\)"):
        ready(settings("sequence", path, labels=["kind"], max_length=10))
    with pytest.raises(InputError, match="no labelled sequence is left of 300 rows"):
        ready(settings("structure", path, labels=["kind"], max_length=10))


def test_rare_classes_that_are_written_as_numbers(tmp_path: Path) -> None:
    """What is not labelled is no class, and a class is called the same whether rare ones are left out or not."""
    rows = [[[1.0, 2.0, None][(row + place) % 3] for place in range(6)] for row in range(60)]
    rows[0][0] = 7.0
    seqs = ["".join(letters) for letters in islice(product("ACGU", repeat=6), 60)]
    pq.write_table(pa.table({"sequence": seqs, "loop": rows}), tmp_path / "in.parquet")
    told = settings("token", tmp_path / "in.parquet", labels=["loop"], problem="multiclass", valid=0, test=0)
    every, _ = ready(told)
    assert every.space.names == ("1", "2", "7")
    common, _ = ready(told.model_copy(update={"min_per_class": 2}))
    assert common.space.names == ("1", "2")
    assert (every.labels[0] >= 0).sum() == (common.labels[0] >= 0).sum() + 1


def test_nothing_is_left_and_why(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_text("id\tsequence\tkind\n")
    with pytest.raises(InputError, match=r"left of 0 rows \(there is nothing below the header\)"):
        ready(settings("sequence", path, labels=["kind"]))
    path.write_text("id\tsequence\tkind\n" + "".join(f"s{k}\t{'ACGU' * (5 + k)}\t{'ab'[k % 2]}\n" for k in range(9)))
    with pytest.raises(UsageError, match=r"--test-where \"id = 's8'\": none of the rows that it chooses can be used"):
        ready(settings("sequence", path, labels=["kind"], test_where="id = 's8'", max_length=40, valid=0))


def test_the_fingerprint_is_of_all_that_is_taught(tmp_path: Path) -> None:
    path = families(tmp_path / "in.parquet")
    base = settings("sequence", path, labels=["kind"])
    first = ready(base)[0].fingerprint
    assert ready(base)[0].fingerprint == first
    for other in ({"test": 0.2}, {"sample": 299}, {"rename": ["a=z"]}):
        assert ready(base.model_copy(update=other))[0].fingerprint != first
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(path.read_bytes())
    assert ready(settings("sequence", moved, labels=["kind"]))[0].fingerprint == first


def test_what_is_alike_is_kept_together(tmp_path: Path) -> None:
    """Only what is used is clustered, after it was sampled; the same split whatever stands beside."""
    dice = np.random.default_rng(1)
    lines = ["id\tsequence\tkind"]
    for k in range(60):
        letters = dice.choice(list("ACGU"), 80)
        for copy in range(2):
            letters[dice.integers(0, 80, 2 * copy)] = "A"
            lines.append(f"s{k}_{copy}\t{''.join(letters)}\t{'ab'[k % 2]}")
    path = tmp_path / "in.tsv"
    path.write_text("\n".join(lines) + "\n")

    def torn(**more: Any) -> int:
        found, _ = ready(settings("sequence", path, labels=["kind"], valid=0.2, test=0.2, **more))
        parts: dict[str, set[str]] = {}
        for id_, part in zip(found.ids, found.parts.tolist(), strict=True):
            parts.setdefault(id_.partition("_")[0], set()).add(part)
        assert set.union(*parts.values()) == {"train", "valid", "test"}
        return sum(len(own) > 1 for own in parts.values())

    assert torn() > 10
    assert torn(cluster=0.8) == torn(cluster=0.8, max_per_class=50) == 0
