"""The SQL of the README runs as printed, and says what the searches of Python say."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

import raypipe
from index.fenced import FencedSql, Limits
from raypipe.asker import AtlasAsker
from raypipe.cli import run
from tests.made import on_disk

TYPES = ("tRNA", "rRNA", "lncRNA")
SPECIES = (9606, 10090, 4932)
QUERY = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCC"
OWN = "URS0000000041_9606"
Rna = dict[str, Any]


def blocks(root: Path) -> list[str]:
    """SQL of the README, in order."""
    return re.findall(r"^```sql\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def rnas() -> list[Rna]:
    """Three families of three species on two chromosomes; the lncRNAs have relatives that are near and far ones."""
    letters = random.Random(7)

    def mutated(sequence: str, share: float) -> str:
        return "".join(letters.choice("ACGU") if letters.random() < share else letter for letter in sequence)

    ancestors = {"tRNA": QUERY, "rRNA": "GGGCCCAAAUUU" * 4, "lncRNA": "".join(letters.choices("ACGU", k=90))}
    made = []
    for number in range(72):
        kind = TYPES[number % 3]
        taxid = SPECIES[number // 3 % 3]
        made.append(
            {
                "urs": f"URS{0x3F + number:010X}",  # so that the README's is a lncRNA of 9606
                "taxid": taxid,
                "rna_type": kind,
                "family": TYPES.index(kind),
                "sequence": mutated(ancestors[kind], number / 144),
                "chromosome": str(1 + number % 2),
                "start": 5000 * number,
            }
        )
    return made


@pytest.fixture(scope="module")
def known() -> dict[str, Rna]:
    """What the atlas holds, by id."""
    found = {f"{rna['urs']}_{rna['taxid']}": rna for rna in rnas()}
    assert found[OWN]["rna_type"] == "lncRNA"
    return found


@pytest.fixture(scope="module")
def atlas(known: dict[str, Rna], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> raypipe.Atlas:
    """An atlas with the tables of the README."""
    folder = tmp_path_factory.mktemp("cookbook")
    lines: dict[str, list[str]] = {
        name: [] for name in ("rnas.fa", "mapping.tsv", "rfam.tsv", "genome.gff3", "loci.bed")
    }
    lines["genome.gff3"].append("##gff-version 3")
    for id_, rna in known.items():
        urs, kind, family = rna["urs"], rna["rna_type"], rna["family"]
        first, last = rna["start"] + 1, rna["start"] + len(rna["sequence"])
        lines["rnas.fa"].append(f">{id_}\n{rna['sequence']}")
        for database in ("ENA", "RFAM"):
            lines["mapping.tsv"].append(f"{urs}\t{database}\tX{family}\t{rna['taxid']}\t{kind}\tgene{family}")
        lines["rfam.tsv"].append(f"{urs}\tRF0000{family}\t50.1\t1e-9\t1\t40\t1\t40\tfamily {family}")
        place = f"{rna['chromosome']}\traypipe\ttranscript\t{first}\t{last}\t.\t+\t."
        lines["genome.gff3"].append(f"{place}\tID={id_};biotype={kind}")
        lines["loci.bed"].append(f"{rna['chromosome']}\t{rna['start']}\t{last}\t{id_}\t0\t+")
    for name, content in lines.items():
        (folder / name).write_text("\n".join(content) + "\n")
    tables = [f"{name.partition('.')[0]}={folder / name}" for name in lines if name != "rnas.fa"]
    for arguments in (
        ["embed", folder / "rnas.fa", "-o", folder / "atlas", "--model", tiny, "--executor", "inline"],
        ["index", folder / "atlas"],
        ["annotate", folder / "atlas", *tables],
    ):
        assert run([str(argument) for argument in arguments]) == 0, arguments
    return raypipe.connect(folder / "atlas")


@pytest.fixture(scope="module")
def answers(root: Path, atlas: raypipe.Atlas) -> list[list[dict[str, Any]]]:
    """Of every block."""
    return [atlas.sql(block).to_pylist() for block in blocks(root)]


def hits(atlas: raypipe.Atlas, k: int, **asked: Any) -> list[dict[str, Any]]:
    return atlas.search(k=k, columns=["query", "id", "score"], **asked).to_pylist()


def test_every_recipe_answers(root: Path, answers: list[list[dict[str, Any]]]) -> None:
    assert len(blocks(root)) == 5
    assert all(answers)


def test_species(answers: list[list[dict[str, Any]]], atlas: raypipe.Atlas, known: dict[str, Rna]) -> None:
    found = hits(atlas, 20, sequences=QUERY)
    species = [known[hit["id"]]["taxid"] for hit in found]
    assert {row["taxid"]: row["hits"] for row in answers[0]} == {taxid: species.count(taxid) for taxid in species}
    assert max(row["best"] for row in answers[0]) == pytest.approx(found[0]["score"])


def test_votes(answers: list[list[dict[str, Any]]], atlas: raypipe.Atlas, known: dict[str, Rna]) -> None:
    queries = {"new1": QUERY[:-1] + "A", "new2": "GGGCCCAAAUUUGGGCCC"}
    for name, row in zip(queries, answers[1], strict=True):
        votes: dict[str, float] = {}
        for hit in hits(atlas, 10, sequences=queries[name]):
            if hit["score"] > 0:
                kind = known[hit["id"]]["rna_type"]
                votes[kind] = votes.get(kind, 0) + hit["score"]
        winner = max(votes, key=lambda kind: votes[kind])
        assert (row["name"], row["rna_type"]) == (name, winner)
        assert row["confidence"] == pytest.approx(votes[winner] / sum(votes.values()), rel=1e-5)


def test_purity(answers: list[list[dict[str, Any]]], atlas: raypipe.Atlas, known: dict[str, Rna]) -> None:
    near = atlas.neighbors(list(known), k=5, columns=["query", "id"]).to_pylist()
    same: dict[str, list[bool]] = {}
    for pair in near:
        family = known[pair["query"]]["family"]
        same.setdefault(f"family {family}", []).append(known[pair["id"]]["family"] == family)
    assert {row["rfam_name"]: row["purity"] for row in answers[2]} == pytest.approx(
        {name: sum(members) / len(members) for name, members in same.items()}
    )
    assert {row["neighbors"] for row in answers[2]} == {5 * 24}


def test_remote_relatives(answers: list[list[dict[str, Any]]], known: dict[str, Rna]) -> None:
    for row in answers[3]:
        assert known[row["id"]]["rna_type"] == "lncRNA"
        assert known[row["id"]]["taxid"] != 9606
        assert 0 < row["identity"] < 0.7
    scores = [row["score"] for row in answers[3]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < len(scores) < 16  # of which some are alike


def test_coordinates(answers: list[list[dict[str, Any]]], atlas: raypipe.Atlas, known: dict[str, Rna]) -> None:
    assert {row["id"] for row in answers[4]} == {hit["id"] for hit in hits(atlas, 20, sequences=QUERY)}
    for row in answers[4]:
        own = known[row["id"]]
        assert (row["gff_start"], str(row["chromosome"])) == (own["start"] + 1, own["chromosome"])
        near = [
            id_
            for id_, other in known.items()
            if other["chromosome"] == own["chromosome"] and 0 < abs(other["start"] - own["start"]) <= 10_000
        ]
        assert row["nearby"] == sorted(near, key=lambda id_: known[id_]["start"])


def test_a_server_answers_them_too(root: Path, atlas: raypipe.Atlas, answers: list[list[dict[str, Any]]]) -> None:
    with FencedSql(on_disk(atlas.store.root), Limits(processes=1, threads=1)) as fenced:
        for block, answer in zip(blocks(root), answers, strict=True):
            result = fenced.query(block, None, AtlasAsker(atlas))
            assert len(result.table) == len(answer)
            assert not result.truncated
