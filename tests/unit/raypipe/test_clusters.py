"""Related sequences by shared words: against a slow count, on made families whose members and strangers are known."""

from __future__ import annotations

import math
import random

import pytest

from raypipe import clusters
from raypipe.cleaning import md5
from raypipe.clusters import FEWEST, WORD, cluster, related
from raypipe.errors import InputError, UsageError
from raypipe.finetuning.parting import NEAR_TEST, parts_of
from raypipe.finetuning.rows import Row
from raypipe.finetuning.settings import FinetuneSettings
from raypipe.finetuning.tables import TESTED


def _random(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("ACGU", k=length))


def _changed(rng: random.Random, sequence: str, share: float) -> str:
    return "".join(rng.choice("ACGU".replace(letter, "")) if rng.random() < share else letter for letter in sequence)


@pytest.fixture(scope="module")
def families() -> list[list[str]]:
    """Eight families of a founder, five mutated copies, one much changed, and a fragment."""
    rng = random.Random(1)
    founders = [_random(rng, rng.randint(90, 200)) for _ in range(8)]
    return [
        [one, *(_changed(rng, one, 0.04)[3:] for _ in range(5)), _changed(rng, one, 0.3), one[10:80]]
        for one in founders
    ]


def _words(sequence: str) -> set[str]:
    words = (sequence[at : at + WORD] for at in range(len(sequence) - WORD + 1))
    return {word for word in words if set(word) <= set("ACGU")}


def _slowly(one: str, other: str, identity: float) -> bool:
    if one == other:
        return True
    few, many = sorted((_words(one), _words(other)), key=len)
    needed = min(max(math.ceil(identity**WORD * len(few)), FEWEST), len(few))
    return len(few & many) >= max(needed, 1)


@pytest.mark.parametrize("identity", [0.7, 0.8, 0.95])
def test_related_is_what_a_slow_count_says(families: list[list[str]], identity: float) -> None:
    rng = random.Random(2)
    known = [one for family in families[:4] for one in family[:2]] + ["ACGUACGUACGU", "A" * 40, "ACGU"]
    asked = [one for family in families for one in family]
    asked += [_random(rng, 300), "ACGUACGUACGUA", "A" * 30, "ACG", "ACGU", families[0][0][:40] + "N" * 30]
    wanted = [any(_slowly(one, other, identity) for other in known) for one in asked]
    assert related(asked, known, identity).tolist() == wanted
    assert any(wanted)
    assert not all(wanted)
    assert not related(asked, [], identity).any()


def test_members_are_like_their_centre_and_families_stay_apart(families: list[list[str]]) -> None:
    together = [one for family in families for one in (*family[:6], family[7])]
    names = cluster(together, 0.8)
    by_name = {md5(one.encode()): one for one in together}
    for place, family in enumerate(families):
        found = set(names[7 * place : 7 * place + 7])
        assert len(found) == 1, family
        assert by_name[found.pop()] in family
    assert len(set(names)) == len(families)
    assert all(_slowly(one, by_name[name], 0.8) for one, name in zip(together, names, strict=True))
    # Nobody else is as like as copies are.
    assert len(set(cluster([family[0] for family in families], 0.5))) == len(families)


def test_order_does_not_matter_and_identity_does(families: list[list[str]]) -> None:
    together = [one for family in families for one in family] + ["ACGU", "ACGU", "N" * 30]
    names = dict(zip(together, cluster(together, 0.8), strict=True))
    shuffled = together[:]
    random.Random(3).shuffle(shuffled)
    assert dict(zip(shuffled, cluster(shuffled, 0.8), strict=True)) == names
    assert len(set(cluster(together, 0.99))) > len(set(names.values()))
    assert names["ACGU"] == md5(b"ACGU")
    assert cluster([], 0.8) == []
    assert cluster(["AC", "AC", "G"], 0.8) == [md5(b"AC"), md5(b"AC"), md5(b"G")]
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="share above 0 and up to 1"):
            cluster(together, wrong)


def test_what_is_looked_up_in_pieces_is_the_same(families: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    together = [one for family in families for one in family]
    known = [family[0] for family in families[:4]]
    whole, near = cluster(together, 0.8), related(together, known, 0.8).tolist()
    assert len(set(whole)) < len(together)
    for size in (1, 150, 1000):
        monkeypatch.setattr(clusters, "_CHUNK", size)
        assert cluster(together, 0.8) == whole
        assert related(together, known, 0.8).tolist() == near


def _rows(families: list[list[str]], tested: set[int]) -> list[Row]:
    return [
        Row("f", 1, "x", one, {TESTED: place in tested and k == 0, "family": f"F{place}" if k in (0, 6) else None})
        for place, family in enumerate(families)
        for k, one in enumerate(family)
    ]


def _parts(families: list[list[str]], tested: set[int], **told: object) -> list[str]:
    settings = FinetuneSettings.model_validate({"task": "structure", "test_where": "x", "valid": 0.3, **told})
    return parts_of(settings, _rows(families, tested))


def test_relatives_of_the_test_part_neither_teach_nor_are_measured_on(families: list[list[str]]) -> None:
    size = len(families[0])
    parts = _parts(families, {0, 1}, cluster=0.8)
    for place in (0, 1):
        own = parts[place * size : place * size + size]
        assert own[0] == "test"
        # The much changed one is nobody's relative, by its letters.
        assert set(own[1:6]) == {NEAR_TEST} == {own[7]}
        assert own[6] in ("train", "valid")
    rest = parts[2 * size :]
    assert set(rest) == {"train", "valid"}
    copies = [set(rest[at : at + 6]) for at in range(0, len(rest), size)]
    assert all(len(found) == 1 for found in copies)
    # With its family's name it is; and a group holds what a cluster alone would part.
    named = _parts(families, {0, 1}, cluster=0.8, group_column=["family"])
    assert named[6] == NEAR_TEST == named[size + 6]
    assert all(len(set(named[at : at + size])) == 1 for at in range(2 * size, len(named), size))
    only_names = _parts(families, {0}, group_column=["family"])
    assert only_names[0] == "test"
    assert only_names[6] == NEAR_TEST
    assert only_names[1] != NEAR_TEST


def test_clusters_keep_a_random_split_whole(families: list[list[str]]) -> None:
    told = {"test_where": None, "test": 0.3, "cluster": 0.8}
    parts = _parts(families, set(), **told)
    assert set(parts) == {"train", "valid", "test"}
    assert all(len(set(parts[at : at + 6])) == 1 for at in range(0, len(parts), len(families[0])))


def test_bad_conditions_are_refused(families: list[list[str]]) -> None:
    with pytest.raises(UsageError, match=r"--test-where 'x': chooses none of 64 rows"):
        _parts(families, set())
    by_column = FinetuneSettings(task="structure", split_column="family")
    with pytest.raises(InputError, match="says train, valid or test"):
        parts_of(by_column, _rows(families, set()))
