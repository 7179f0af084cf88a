"""Search tools as they are installed; those that are absent are passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.tools import TOOLS, _read_hits, search


def related(seed: int) -> list[str]:
    """Ten families of four sequences each, a tenth of the letters changed; relatives stand ten rows apart."""
    rng = np.random.default_rng(seed)
    ancestors = rng.choice(list("ACGU"), (10, 90))
    members = []
    for _ in range(4):
        changed = rng.random((10, 90)) < 0.1
        members += list(np.where(changed, rng.choice(list("ACGU"), (10, 90)), ancestors))
    return ["".join(letters) for letters in members]


@pytest.mark.parametrize("name", TOOLS)
def test_tools_find_relatives_on_the_forward_strand(name: str) -> None:
    tool = TOOLS[name]
    if (why := tool.missing()) is not None:
        pytest.skip(why)
    sequences = related(1)
    # The last one is the reverse complement of the first: not to be found from there.
    sequences.append(sequences[0][::-1].translate(str.maketrans("ACGU", "UGCA")))
    queries = np.array([0, 1, 15, 39])
    hits = search(tool, sequences, queries, 1, lambda _: None)
    for row in queries.tolist():
        assert hits[row][0] == row
        assert set(hits[row][1:4].tolist()) == {other for other in range(row % 10, 40, 10) if other != row}
        assert len(set(hits[row].tolist())) == len(hits[row])
    assert len(sequences) - 1 not in hits[0][:5].tolist()


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"not found on the PATH; install with: apt-get install .*--baselines"):
        search(TOOLS[name], ["ACGU"], np.array([0]), 1, lambda _: None)


def test_a_tool_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("blastn", "makeblastdb"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'no room at the inn' >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RaypipeError, match=r"BLASTN failed \(exit code 3\): makeblastdb .*: no room at the inn"):
        search(TOOLS["blastn"], ["ACGU"], np.array([0]), 1, lambda _: None)


def test_long_lists_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.evaluation.tools._BLOCK_BYTES", 4096)
    rng = np.random.default_rng(1)
    lines, expected = [], {}
    for query in rng.permutation(60).tolist():
        targets = rng.permutation(500)[:400]
        bits = np.sort(rng.integers(10, 9000, 400))[::-1]
        lines += [f"{query}\t{target}\t{score}" for target, score in zip(targets, bits, strict=True)]
        expected[query] = targets[np.lexsort((targets, -bits))].tolist()
    path = tmp_path / "hits.tsv"
    path.write_text("\n".join(lines) + "\n")
    assert path.stat().st_size > 50 * 4096
    found = _read_hits(TOOLS["blastn"], path)
    assert {query: rows.tolist() for query, rows in found.items()} == expected


def test_lists_that_are_empty_or_torn(tmp_path: Path) -> None:
    path = tmp_path / "hits.tsv"
    assert _read_hits(TOOLS["blastn"], path) == {}
    path.write_text("1\t2\t30\n2\t1\t30\n1\t3\t20\n")
    with pytest.raises(RaypipeError, match="lists query 1 twice"):
        _read_hits(TOOLS["blastn"], path)
