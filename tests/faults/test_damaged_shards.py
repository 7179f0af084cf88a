"""A finished shard is a file that stands, is whole, and says that it is of this run; anything else is made anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.cli import run
from tests.faults.conftest import SHARD_TOKENS
from tests.runs import NANO, assert_same_vectors, shard_files

Damage = Callable[[Path], None]


def truncate(share: float) -> Damage:
    return lambda shard: shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])


def flip(text: bytes, distance: int = 0) -> Damage:
    """Flip a bit of the byte that lies `distance` behind the last occurrence of `text`."""

    def damage(shard: Path) -> None:
        content = bytearray(shard.read_bytes())
        content[content.rindex(text) + distance] ^= 128 if distance == 0 else 1
        shard.write_bytes(content)

    return damage


def put_another(shard: Path) -> None:
    """A whole file, of the right run, but another shard's."""
    shutil.copy(shard.with_name("part-000004.parquet"), shard)


def put_foreign(shard: Path) -> None:
    """The same shard of another set of vectors: another pooling, all else equal."""
    atlas = shard.parents[2]
    options = ["--pooling", "max", "--name", "other", "--executor", "inline", *SHARD_TOKENS]
    assert run(["embed", str(atlas), *options]) == 0
    shutil.copy(atlas / "embeddings" / "other" / shard.name, shard)


DAMAGES: dict[str, Damage] = {
    "missing": lambda shard: shard.unlink(),
    "empty": truncate(0),
    "cut in half": truncate(0.5),
    "cut at the end": truncate(0.999),
    "text": lambda shard: shard.write_text("not Parquet\n"),
    "bit of the footer: fingerprint": flip(b'"fingerprint": "', len(b'"fingerprint": "') + 3),
    "bit of the footer: rows": flip(b'"rows": ', len(b'"rows": ')),
    "bit of the footer: no JSON": flip(b'{"failed"', 1),
    "bit of the footer: no UTF-8": flip(b"fingerprint"),
    "bit of the end mark": flip(b"PAR1", 2),
    "another shard": put_another,
    "foreign": put_foreign,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_is_made_anew(tmp_path: Path, undisturbed: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    atlas = Path(shutil.copytree(undisturbed, tmp_path / "atlas"))
    shard = atlas / NANO / "part-000001.parquet"
    others = {path: path.stat().st_mtime_ns for path in shard_files(atlas) if path != shard}
    DAMAGES[damage](shard)
    capfd.readouterr()
    assert run(["embed", str(atlas), *SHARD_TOKENS, "--executor", "inline"]) == 0
    assert f"in 1 shards, {len(others)} finished before" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in others} == others
    ids = [path.name for path in shard_files(atlas)]
    assert ids == [path.name for path in shard_files(undisturbed)]
    assert_same_vectors(atlas, undisturbed)
