"""The command line in this process, a checkpoint so small that it costs nothing, and one finished atlas."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypipe.cli import DONE, run
from tests.headed import make_headed
from tests.runs import write_fasta

FASTA = """\
>t1 first tRNA
GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCC
>t2
GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCG
>s1 a small one
GGGCCCAAAUUU
>s2
ACGUACGUACGUACGUAAAA
>u1
UUUUUUUUUUUUUUUUCC
>t1
GCGGAUUUAGCUCAGUUGGGAGAGC
>copy the sequence of s1
gggcccaaattt
"""
TABLE = "id\tfamily\trank\nt1\ttRNA\t1\nt2\ttRNA\t2\ns1\tother\t3\nu1\tother\t4\n"


@dataclass(frozen=True)
class Ran:
    """What a command left behind: exit code, standard output, standard error on one line."""

    code: int
    out: str
    err: str

    def command(self) -> list[str]:
        """The command that the message advises at its end, without the program's name."""
        found = re.search(r"raypipe ((?:index|embed|model convert) .*)$", self.err)
        assert found, self.err
        return shlex.split(found[1])


Cli = Callable[..., Ran]
Make = Callable[..., Path]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command line in this process."""

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capfd.readouterr()
        # Usage errors come in a box of lines.
        return Ran(code, said.out, " ".join(said.err.replace("\u2502", " ").split()))

    return call


def make_checkpoint(folder: Path, seed: int) -> Path:
    """A random checkpoint of one narrow layer."""
    import torch

    from model.alphabet import Alphabet
    from model.checkpoint import write_checkpoint
    from model.config import AidoRnaConfig
    from model.encoder import AidoRna

    config = AidoRnaConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16)
    torch.manual_seed(seed)
    tensors = {name: torch.randn(value.shape) * 0.3 for name, value in AidoRna(config).state_dict().items()}
    write_checkpoint(folder, config.to_json(), tensors, Alphabet())
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is called tiny."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkpoint of the same shape."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "other", seed=2)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """An atlas with everything: 7 records of 6 sequences in several shards, indexed, annotated. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in.fa").write_text(FASTA)
    (folder / "families.tsv").write_text(TABLE)
    atlas = str(folder / "atlas")
    options = ["--model", str(tiny), "--executor", "inline", "--shard-tokens", "60"]
    for arguments in (
        ["embed", str(folder / "in.fa"), "-o", atlas, *options],
        ["index", atlas],
        ["annotate", atlas, f"families={folder / 'families.tsv'}"],
    ):
        assert run(arguments) == 0, arguments
    return Path(atlas)


@pytest.fixture
def atlas(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished atlas, to be changed and damaged."""
    return Path(shutil.copytree(finished, tmp_path / "atlas"))


@pytest.fixture(scope="session")
def headed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with heads of every kind; not to be changed."""
    return make_headed(tmp_path_factory.mktemp("models") / "headed")


@pytest.fixture
def ingested(cli: Cli, tmp_path: Path) -> Make:
    """Makes an atlas of 20 sequences, of which one has letters that are no nucleotides and one nothing else."""
    fasta = write_fasta(tmp_path / "in.fa", 18, 12, 40)
    with fasta.open("a") as file:
        file.write(">odd\nACGUNNRYACGUUU\n>unknown\nNNNN\n")

    def make(name: str = "atlas") -> Path:
        assert cli("ingest", fasta, "-o", tmp_path / name).code == DONE
        return tmp_path / name

    return make
