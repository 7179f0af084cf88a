"""The verbs that ask: a server's address in the place of a folder gives the same output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.cli import DONE, FAILED, USAGE
from raypipe.client import lines
from tests.headed import INLINE, make_headed
from tests.integration.conftest import FASTA, TABLE, Cli
from tests.served import served

S1 = "GGGCCCAAAUUU"
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """A folder, a server over it that wants a token, and a checkpoint."""
    from raypipe.cli import run

    folder = tmp_path_factory.mktemp("both")
    model = make_headed(folder / "headed")
    (folder / "in.fa").write_text(FASTA)
    (folder / "families.tsv").write_text(TABLE)
    (folder / "tokens").write_text(TOKEN + "\n")
    (folder / "tokens").chmod(0o600)
    atlas = str(folder / "atlas")
    for arguments in (
        ["embed", str(folder / "in.fa"), "-o", atlas, "--model", str(model), *INLINE],
        ["index", atlas],
        ["annotate", atlas, f"families={folder / 'families.tsv'}"],
    ):
        assert run(arguments) == DONE
    with served(atlas, token_file=str(folder / "tokens"), max_rows=3) as url:
        yield atlas, url, model


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "{}", S1, "-k", "3"],
        ["search", "{}", "--ids", "s1", "u1", "--where", "family = 'other'", "--columns", "id,score", "--how"],
        ["search", "{}", S1, "--format", "jsonl", "--all-annotations", "--no-header"],
        ["sql", "{}", "SELECT id FROM records ORDER BY id LIMIT 3", "--format", "csv"],
    ],
)
def test_the_same_output(cli: Cli, both: tuple[str, str, Path], arguments: list[str]) -> None:
    atlas, url, _ = both
    here = cli(*(text.format(atlas) for text in arguments))
    there = cli(*(text.format(url) for text in arguments), "--token", TOKEN)
    assert (here.code, there.code) == (DONE, DONE), there.err
    assert here.out == there.out != ""
    assert here.err == there.err


def test_info_and_masks(cli: Cli, both: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    atlas, url, model = both
    monkeypatch.setenv("RAYPIPE_TOKEN", TOKEN)
    here, there = cli("info", atlas).out.splitlines(), cli("info", url).out.splitlines()
    assert there[0].split() == ["atlas", url]
    assert here[1:] == there[1:]
    texts = ["AC<mask>GU", "<mask>AC<mask>", "AC<mask>GU"]
    assert cli("fill-mask", *texts, "--model", model).out == cli("fill-mask", *texts, "--model", url).out
    cut = cli("sql", url, "FROM records")
    assert len(cut.out.splitlines()) == 4
    assert "note: the server gives 3 rows at most, and there are more" in cut.err


def test_what_cannot_be(cli: Cli, both: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    atlas, url, _ = both
    monkeypatch.delenv("RAYPIPE_TOKEN", raising=False)
    monkeypatch.setattr(lines, "FIRST_PAUSE", 0.01)
    for arguments, code, words in (
        (["search", url, S1], FAILED, "token"),
        (["search", url, S1, "--token", "wrong"], FAILED, "token"),
        (["search", url, S1, "--token", TOKEN, "-k", "0"], USAGE, "k is 0"),
        (["search", url, S1, "--token", TOKEN, "--model", "nano"], USAGE, "--model: the server has a model"),
        (["search", url, S1, "--token", TOKEN, "--allow-stale"], USAGE, "--allow-stale: the server"),
        (["search", url, "--ids", "nobody", "--token", TOKEN], FAILED, "no record with id nobody"),
        (["search", atlas, S1, "--token", TOKEN], USAGE, "is no server, so it takes none"),
        (["fill-mask", "A<mask>", "--token", TOKEN], USAGE, "is no server, so it takes none"),
        (["info", "http://127.0.0.1:1/nobody"], FAILED, "cannot be reached"),
        (["predict", S1, "--heads", "structure", "--model", url], FAILED, "is a server"),
        (
            ["export", url, "--what", "annotations", "-o", "a.tsv"],
            USAGE,
            "is a server, and this",
        ),
    ):
        ran = cli(*arguments)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert words in ran.err
        assert TOKEN not in ran.err
