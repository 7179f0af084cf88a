"""raypipe neighbors and cluster: what they say, write and refuse; and a kill in the middle."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import numpy as np
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest

from index.build import build_index
from index.store import Store
from raypipe.cli import DONE, FAILED, INCOMPLETE, USAGE
from tests.integration.conftest import Cli
from tests.runs import MODULE, started
from tests.unit.index.conftest import Builder


@pytest.fixture
def many(tmp_path: Path) -> Store:
    """An atlas of 1200 sequences in twelve tight families, indexed."""
    generator = np.random.default_rng(3)
    centres = generator.standard_normal((12, 32))
    vectors = centres[np.arange(1200) % 12] + 0.1 * generator.standard_normal((1200, 32))
    store = Builder(tmp_path).embedded(vectors.astype(np.float32), name="many")
    with store.lock():
        build_index(store, transform="none")
    return store


def test_from_atlas_to_families(atlas: Path, cli: Cli, tmp_path: Path) -> None:
    refused = cli("cluster", atlas, "--min-score", 0.5)
    assert refused.code == FAILED
    assert refused.err.endswith(f"no graph of neighbours yet; make one with: raypipe neighbors {atlas}")
    made = cli("neighbors", atlas, "-k", 3, "--batch", 4)
    assert (made.code, made.out) == (DONE, ""), made.err
    assert "the 3 nearest of each sequence by index 000001 (Flat): 2 blocks to make" in made.err
    assert "18 edges of 6 sequences in" in made.err
    assert made.err.endswith("complete: 2 blocks")
    again = cli("neighbors", atlas, "-k", 3)
    assert (again.code, "neighbors: up to date" in again.err) == (DONE, True)

    # What search finds, without the sequence itself.
    hits = cli("search", atlas, "--ids", "t2", "-k", 4, "--columns", "seq_id,score", "--no-header").out.split()
    own = hits[0]
    asked = f"SELECT neighbor, round(score, 6) FROM neighbors WHERE seq_id = {own} ORDER BY rank"
    assert cli("sql", atlas, asked, "--no-header").out.split()[::2] == hits[2::2]
    assert cli("verify", atlas, "--deep").code == DONE
    assert cli("info", atlas).code == DONE

    found = cli("cluster", atlas, "--min-score", "-1")
    assert found.code == DONE
    assert "1 clusters of 2 sequences or more, the largest of 6; 0 sequences are alone" in found.err
    assert "with a larger -k of raypipe neighbors clusters may join" in found.err
    lines = [line.split("\t") for line in found.out.splitlines()]
    assert lines[0] == ["id", "seq_id", "cluster", "size"]
    assert sorted(int(line[1]) for line in lines[1:]) == list(range(6))
    assert {tuple(line[2:]) for line in lines[1:]} == {("0", "6")}

    # The answer is an annotation table as it stands.
    file = tmp_path / "families.tsv"
    assert cli("cluster", atlas, "--min-score", 0.999, "-o", file).code == DONE
    assert cli("annotate", atlas, f"family={file}").code == DONE
    joined = cli("sql", atlas, "SELECT id, seq_id, cluster, size FROM family ORDER BY size DESC, cluster, seq_id")
    assert joined.out == file.read_text()
    alone = file.read_text().count("\t1\n")
    assert 0 < alone < 6
    hits = cli("search", atlas, "--ids", "t2", "--where", "family.size = 1", "--no-header").out
    assert len(hits.splitlines()) == alone


def test_refusals(atlas: Path, cli: Cli, tmp_path: Path) -> None:
    for arguments in (["-k", "0"], ["--min-score", "1.5"], ["--batch", "0"]):
        assert cli("neighbors", atlas, *arguments).code == USAGE
    assert cli("cluster", atlas).code == USAGE
    assert cli("neighbors", atlas, "-k", 3, "--min-score", 0.2).code == DONE
    other = cli("neighbors", atlas, "-k", 4)
    assert other.code == FAILED
    assert f"made, or gone on with, by: raypipe neighbors {atlas} -k 3 --min-score 0.2; with --replace" in other.err
    below = cli("cluster", atlas, "--min-score", 0.1)
    assert below.code == FAILED
    assert below.err.endswith(f"raypipe neighbors {atlas} -k 3 --min-score 0.1 --replace")
    nowhere = cli("cluster", atlas, "--min-score", 0.5, "-o", tmp_path / "no" / "file")
    assert (nowhere.code, "no such folder" in nowhere.err) == (FAILED, True)
    assert cli("neighbors", atlas, "-k", 4, "--replace").code == DONE

    assert cli("index", atlas, "--transform", "center").code == DONE
    stale = cli("cluster", atlas, "--min-score", 0.5, "--format", "jsonl")
    assert (stale.code, stale.out) == (FAILED, "")
    assert stale.err.endswith(f"and 000002 is the live one; run: raypipe neighbors {atlas} -k 4")
    anew = cli("neighbors", atlas, "-k", 4)
    assert anew.code == DONE
    assert "is stale, and made anew: it is of index 000001, and 000002 is the live one the 4 nearest" in anew.err
    found = cli("cluster", atlas, "--min-score", 0.5, "--format", "jsonl")
    assert {row["seq_id"] for row in map(json.loads, found.out.splitlines())} == set(range(6))


def test_stopped_in_the_middle(many: Store, root: Path, cli: Cli) -> None:
    """By Ctrl-C, then killed: the same command goes on, to the same edges as at once."""
    atlas = Path(str(many.root))
    options = [str(atlas), "-k", "4", "--batch", "5"]
    finished = 0

    def parts() -> list[Path]:
        return sorted((atlas / "neighbors").glob("part-*.parquet"))

    for how, code in ((signal.SIGINT, INCOMPLETE), (signal.SIGKILL, -signal.SIGKILL)):
        with started([*MODULE, "neighbors", *options], cwd=root) as run:
            run.wait_for(lambda: len(parts()) > finished + 5)  # noqa: B023
            run.process.send_signal(how)
            run.wait()
        assert run.code == code, run.err
        assert finished == 0 or f"{240 - finished} blocks to make, {finished} finished before" in run.err
        finished = len(parts())
        assert finished < 240
        if how == signal.SIGINT:
            assert run.lines[-1] == "raypipe: stopped; what is finished stays, run the same command again to go on"
    unfinished = cli("cluster", atlas, "--min-score", 0.5)
    assert unfinished.code == FAILED
    assert f"unfinished, {240 - finished} of 240 blocks" in unfinished.err
    assert cli("neighbors", *options).code == DONE
    pieces = [pq.read_table(path) for path in parts()]
    assert len(pieces) == 240
    assert cli("neighbors", atlas, "-k", 4, "--batch", 1200, "--replace").code == DONE
    (whole,) = parts()
    assert sum(table.num_rows for table in pieces) == 4800
    for name in ("seq_id", "neighbor", "score", "rank"):
        joined = np.concatenate([table[name].to_numpy() for table in pieces])
        np.testing.assert_array_equal(joined, pq.read_table(whole)[name])
    families = cli("cluster", atlas, "--min-score", 0.8, "--format", "csv")
    table = arrow_csv.read_csv(io.BytesIO(families.out.encode()))
    np.testing.assert_array_equal(table["cluster"].to_numpy(), table["seq_id"].to_numpy() % 12)
    assert "12 clusters of 2 sequences or more, the largest of 100; 0 sequences are alone" in families.err
