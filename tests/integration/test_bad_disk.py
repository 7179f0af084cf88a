"""A full disk and a read-only one, on real file systems: nothing is lost, nothing is doubled.

They need the right to mount (tests often run as root); elsewhere they are skipped with that reason.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from index.store import Store
from raypipe.atlas import Atlas
from raypipe.cli import DONE, FAILED

Cli = Callable[..., Any]
INLINE = ("--executor", "inline")
SMALL = ">a\nGGUCACGU\n>b\nACGUACGUAA\n>c\nGGGGAAAACCCC\n"
COUNT, LENGTH = 3000, 1000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a small file system ({error})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3000 sequences of 1000 nt: about 1 MB in the store, and as much while they are staged."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("big") / "big.fa"
    path.write_text("".join(f">r{n}\n{''.join(draw.choices('ACGU', k=LENGTH))}\n" for n in range(COUNT)))
    return path


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk but for `leave` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return ballast


def counts(atlas: Path) -> tuple[int, ...]:
    query = """SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM sequences),
                      (SELECT count(DISTINCT sequence) FROM sequences)"""
    return tuple(Atlas(atlas).sql(query).to_pylist()[0].values())


# From the first file that is opened to the last one that is renamed.
@pytest.mark.parametrize("leave", [0, 4096, 8192, 40_960, 300_000, 900_000, 1_500_000])
def test_a_full_disk_during_ingest(cli: Cli, disk: Path, big: Path, leave: int) -> None:
    ballast = fill(disk, leave)
    ran = cli("ingest", big, "-o", disk / "atlas")
    assert (ran.code, ran.out) == (FAILED, "")
    assert "disk is full" in ran.err or "No space left on device" in ran.err
    ballast.unlink()
    ran = cli("ingest", big, "-o", disk / "atlas")
    assert ran.code == DONE
    assert counts(disk / "atlas") == (COUNT, COUNT, COUNT)
    assert [path.name for path in (disk / "atlas" / ".tmp").iterdir()] == []


@pytest.mark.parametrize("leave", [0, 8192, 100_000, 900_000])
def test_a_full_disk_keeps_what_was_ingested_before(cli: Cli, disk: Path, big: Path, leave: int) -> None:
    (disk.parent / "small.fa").write_text(SMALL)
    assert cli("ingest", disk.parent / "small.fa", "-o", disk / "atlas").code == DONE
    ballast = fill(disk, leave)
    ran = cli("ingest", big, "-o", disk / "atlas")
    assert ran.code == FAILED
    assert "the disk is full" in ran.err
    assert "free some space and run the same command again" in ran.err
    assert counts(disk / "atlas") == (3, 3, 3)
    ballast.unlink()
    assert cli("ingest", big, "-o", disk / "atlas").code == DONE
    assert counts(disk / "atlas") == (COUNT + 3, COUNT + 3, COUNT + 3)


def test_a_full_disk_during_embed(cli: Cli, disk: Path, tiny: Path) -> None:
    """With one block more at every try, so that it is full at each step in turn, between two shards included."""
    (disk.parent / "small.fa").write_text(SMALL)
    atlas = disk / "atlas"
    embed = ("embed", atlas, "--model", tiny, *INLINE, "--shard-tokens", "12", "--store-dtype", "float32")
    assert cli("ingest", disk.parent / "small.fa", "-o", atlas).code == DONE
    finished = []
    for leave in range(0, 1 << 20, 4096):
        ballast = fill(disk, leave)
        ran = cli(*embed)
        ballast.unlink()
        if ran.code == DONE:
            break
        assert ran.code == FAILED
        assert "disk is full" in ran.err or "No space left on device" in ran.err
        assert "run the same command again: it goes on where it stopped" in ran.err
        finished.append(len(list((atlas / "embeddings").glob("tiny/part-*"))))
    assert len(finished) > 2
    assert finished == sorted(finished)
    assert "3 distinct sequences = 3 embedded + 0 failed" in ran.err
    vectors = Atlas(atlas).sql("SELECT seq_id FROM embeddings ORDER BY seq_id").to_pylist()
    assert [row["seq_id"] for row in vectors] == [0, 1, 2]
    assert "nothing to embed" in cli(*embed).err


def test_a_disk_that_is_too_small_is_refused_before_the_run(cli: Cli, disk: Path, big: Path, tiny: Path) -> None:
    atlas = disk / "atlas"
    assert cli("ingest", big, "-o", atlas).code == DONE
    ran = cli("embed", atlas, "--model", tiny, *INLINE, "--per-token")
    assert ran.code == FAILED
    # 3000 x (16 halffloats and an id), and as many halffloats for each of 3,000,000 nucleotides.
    assert "will write 117.2 KiB in embeddings/tiny, 91.6 MiB in tokens/tiny" in ran.err
    assert not list(atlas.glob("*/tiny/part-*"))


def test_a_full_disk_during_index_and_annotate(cli: Cli, disk: Path, finished: Path) -> None:
    atlas = Path(shutil.copytree(finished, disk / "atlas"))
    shutil.rmtree(atlas / "index")
    (disk.parent / "t.tsv").write_text("id\tx\ns1\t1\n")
    ballast = fill(disk, 4096)
    for command in (["index", atlas], ["annotate", atlas, f"t={disk.parent / 't.tsv'}"]):
        ran = cli(*command)
        assert ran.code == FAILED
        assert "space" in ran.err.lower() or "full" in ran.err
    ballast.unlink()
    assert cli("index", atlas).code == DONE
    assert cli("annotate", atlas, f"t={disk.parent / 't.tsv'}").code == DONE
    assert (
        cli("search", atlas, "GGGCCCAAAUUU", "-k", "1", "--columns", "id,family,x").out
        == "id\tfamily\tx\ns1\tother\t1\n"
    )


def test_a_read_only_disk(cli: Cli, disk: Path, finished: Path, tiny: Path) -> None:
    """Writers say so; readers do not need to write."""
    atlas = Path(shutil.copytree(finished, disk / "atlas"))
    (disk.parent / "small.fa").write_text(SMALL)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=20)
    writers = [
        ["ingest", disk.parent / "small.fa", "-o", atlas],
        ["ingest", disk.parent / "small.fa", "-o", disk / "new"],
        ["embed", atlas, "--model", tiny, *INLINE, "--name", "again"],
        ["index", atlas],
        ["annotate", atlas, f"x={disk.parent / 'small.fa'}"],
        ["search", atlas, "GGUC", "-o", disk / "hits.tsv"],
    ]
    for command in writers:
        ran = cli(*command)
        assert (ran.code, ran.out) == (FAILED, "")
        assert "Read-only file system" in ran.err
    assert cli("search", atlas, "GGGCCCAAAUUU", "-k", "1", "--columns", "id").out == "id\ns1\n"
    assert cli("sql", atlas, "SELECT count(*) AS n FROM records").out == "n\n7\n"
    assert cli("info", atlas).code == DONE
    assert Store.open(atlas).num_records == 7
