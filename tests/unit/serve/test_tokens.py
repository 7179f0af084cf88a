"""Bearer tokens from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.errors import UsageError
from raypipe.serve.tokens import Tokens

ONE, TWO = "a" * 16, "b" * 32


def test_tokens_stand_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the lab\n{ONE}  # Ann\n\n{TWO}\n")
    tokens = Tokens(file)
    assert tokens.admit(ONE)
    assert tokens.admit(TWO)
    for other in ("", "a", ONE + "a", "# Ann", "ä" * 16, "\udcff"):
        assert not tokens.admit(other)


def test_a_file_that_changes_is_read_again_and_one_that_is_gone_is_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text(ONE)
    tokens = Tokens(file)
    file.write_text(f"{TWO}\n")
    assert tokens.admit(TWO)
    assert not tokens.admit(ONE)
    for broken in ("", "short"):
        file.write_text(broken)
        assert tokens.admit(TWO)
        assert tokens.admit(TWO)
    assert caplog.messages == ["the tokens that were read before still hold"] * 2
    file.unlink()
    assert tokens.admit(TWO)
    assert len(caplog.messages) == 3
    assert TWO not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file"),
        (b"# nothing\n\n", "holds no token; write one"),
        (b"tooshort\n", "token 1 is shorter than 16 characters"),
        (b"aaaaaaaaaaaaaaaa\nbbbbbbb bbbbbbbbb\n", "token 2 is shorter"),
        (b"\xff\xfe", "no text"),
    ],
)
def test_files_that_hold_no_tokens(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Tokens(file)
    assert words in str(caught.value)
