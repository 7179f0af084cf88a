"""Make the demo corpus: real ncRNAs with family labels, from the source package of Infernal (BSD-3).

    python -m raypipe.demo_corpus SRC_DIR DST_DIR

SRC_DIR is the unpacked source tree (`apt-get source infernal`), DST_DIR receives `demo.fasta.gz`,
`annotations.tsv.gz` and `PROVENANCE.md`. The same tree gives the same bytes.

Left out on purpose: `4.sto` (tRNA, Vault, snR75 and Plant_SRP again), `RNaseP.sto` and `trna-2.sto` (again in
larger files), `ssu.sto` (four 16S rRNAs patched with N), `PK-HAV.sto` (two fragments of one virus), the
toy alignments `se*.sto` and `bug-i49.sto`, and whatever is DNA or protein.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RaypipeError
from raypipe.stockholm import Alignment, StockholmError, pair_table, project, read_stockholm

_PURPOSE = "Make the demo corpus from the source package of infernal."
_NO_TREE = "no such file; SRC_DIR must be the unpacked source tree of infernal"
FASTA_NAME, TABLE_NAME, PROVENANCE_NAME = "demo.fasta.gz", "annotations.tsv.gz", "PROVENANCE.md"
COLUMNS = ("id", "family", "rna_type", "length", "structure", "source_file")
IUPAC_RNA = frozenset("ACGUNRYSWKMBDHV")


class DemoCorpusError(RaypipeError):
    """The source tree does not hold what the demo corpus is made from."""


@dataclass(frozen=True)
class Source:
    """A Stockholm file, and the names of its family where the file itself has none (`#=GF ID`, `#=GF DE`)."""

    path: str
    family: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Rna:
    """One sequence of the corpus; `structure` is dot-bracket, as long as `sequence`."""

    id: str
    family: str
    description: str
    sequence: str
    structure: str
    source_file: str


SOURCES = (
    Source("testsuite/tRNA.sto", description="transfer RNA"),
    Source("testsuite/tRNA1415G.sto", "tRNA", "transfer RNA"),
    Source("tutorial/5S_rRNA.sto"),
    Source("testsuite/bug-i15.sto", "SSU_rRNA_bacteria", "Bacterial 16S ribosomal RNA"),
    Source("tutorial/Cobalamin.sto"),
    Source("testsuite/rnaseP-eubact.sto", "RNaseP_bact", "Bacterial ribonuclease P RNA"),
    Source("testsuite/3.4.12.rf.stk"),
    Source("testsuite/snR75.sto"),
    Source("testsuite/Vault.sto"),
    Source("testsuite/Plant_SRP.sto"),
    Source("testsuite/srp-euk.sto", "Euk_SRP", "Eukaryotic signal recognition particle RNA"),
)

# RNAcentral's names of types; riboswitches have none there and keep Rfam's.
RNA_TYPES = {
    "tRNA": "tRNA",
    "5S_rRNA": "rRNA",
    "SSU_rRNA_bacteria": "rRNA",
    "Cobalamin": "riboswitch",
    "RNaseP_bact": "RNase_P_RNA",
    "U1": "snRNA",
    "U2": "snRNA",
    "U3": "snoRNA",
    "snR75": "snoRNA",
    "Vault": "vault_RNA",
    "Plant_SRP": "SRP_RNA",
    "Euk_SRP": "SRP_RNA",
}

# A demo is to take a minute: tRNAs would be more than half of all, and each 16S rRNA costs as much as twenty of them.
CAPS = {"tRNA": 400, "5S_rRNA": 300, "Cobalamin": 200, "RNaseP_bact": 120, "SSU_rRNA_bacteria": 12}

# One-letter code and name; X and Z are the compilation's own letters for initiator and selenocysteine tRNAs.
_LETTERS = (
    "A=Ala C=Cys D=Asp E=Glu F=Phe G=Gly H=His I=Ile K=Lys L=Leu M=Met N=Asn P=Pro Q=Gln R=Arg S=Ser T=Thr "
    "V=Val W=Trp Y=Tyr X=iMet Z=Sec"
)
AMINO_ACIDS = {pair[0]: pair[2:] for pair in _LETTERS.split()}


def collect(src_dir: Path, sources: Sequence[Source], caps: Mapping[str, int]) -> list[Rna]:
    """Read the sources and choose the corpus.

    Args:
        src_dir: source tree that the paths of `sources` are relative to.
        sources: files, in the order of the corpus.
        caps: most sequences of a family; which ones stay depends on nothing but their ids.

    Returns:
        The corpus in source order. A sequence that its family already has is left out.

    Raises:
        DemoCorpusError: a file is missing, a letter is no RNA letter, or two sequences share an id (the
            annotations are joined by id).
        StockholmError: a file that is not sound Stockholm.
    """
    chosen: dict[tuple[str, str], Rna] = {}
    for source in sources:
        path = src_dir / source.path
        if not path.is_file():
            raise DemoCorpusError(f"{path}: {_NO_TREE}")
        for alignment in read_stockholm(path):
            for rna in _rnas(path, alignment, source):
                chosen.setdefault((rna.family, rna.sequence), rna)
    kept = _capped(list(chosen.values()), caps)
    origin: dict[str, Rna] = {}
    for rna in kept:
        other = origin.setdefault(rna.id, rna)
        if other is not rna:
            raise DemoCorpusError(
                f"id {rna.id}: {rna.source_file} and {other.source_file} have different sequences for it"
            )
    return kept


def _rnas(path: Path, alignment: Alignment, source: Source) -> list[Rna]:
    """The sequences of one alignment, without gaps, each with its own structure."""
    family = source.family or alignment.family
    if family is None:
        raise DemoCorpusError(f"{path}: the alignment has no '#=GF ID' and the source table names no family")
    try:
        partners = pair_table(alignment.structure)
    except StockholmError as error:
        raise StockholmError(f"{path}: SS_cons of {family}: {error}") from error
    rnas = []
    for name, row in alignment.rows.items():
        sequence, structure = project(row, alignment.structure, partners)
        # The RNase P database writes X for an unread base; IUPAC's letter for that is N.
        sequence = sequence.replace("X", "N")
        strange = set(sequence) - IUPAC_RNA
        if strange or not sequence:
            raise DemoCorpusError(f"{path}: {name} is empty or has letters outside RNA: {sorted(strange)}")
        description = _describe(name, source.description or alignment.description or family)
        rnas.append(Rna(name, family, description, sequence, structure, source.path))
    return rnas


def _describe(name: str, description: str) -> str:
    """Add the amino acid, the second letter of the ids of Sprinzl's tRNA gene compilation (`DF6280`: Phe)."""
    match = re.fullmatch(r"D([A-Z])\d{4}", name)
    return f"{description} ({AMINO_ACIDS[match[1]]})" if match else description


def _capped(rnas: list[Rna], caps: Mapping[str, int]) -> list[Rna]:
    """Thin families out by the order of their ids' hashes, so that a choice survives changes elsewhere."""
    dropped: set[Rna] = set()
    for family, most in caps.items():
        members = [rna for rna in rnas if rna.family == family]
        members.sort(key=lambda rna: hashlib.sha256(rna.id.encode()).digest())
        dropped.update(members[most:])
    return [rna for rna in rnas if rna not in dropped]


def build(
    src_dir: Path,
    dst_dir: Path,
    sources: Sequence[Source] = SOURCES,
    caps: Mapping[str, int] = CAPS,
    rna_types: Mapping[str, str] = RNA_TYPES,
) -> Counter[str]:
    """Write the corpus, its annotations and their provenance into `dst_dir` (made if absent).

    Args:
        src_dir: unpacked source tree of infernal.
        dst_dir: folder that receives the three files.
        sources: see `collect`.
        caps: see `collect`.
        rna_types: type of RNA by family; every family needs one.

    Returns:
        Number of sequences by family.

    Raises:
        DemoCorpusError, StockholmError: see `collect`; also a family without a type, a tree without LICENSE.
    """
    rnas = collect(src_dir, sources, caps)
    counts = Counter(rna.family for rna in rnas)
    untyped = sorted(counts.keys() - rna_types.keys())
    if untyped:
        raise DemoCorpusError(f"no rna_type is known for {', '.join(untyped)}; add it to RNA_TYPES")
    dst_dir.mkdir(parents=True, exist_ok=True)
    fasta = "".join(f">{rna.id} {rna.family} {rna.description}\n{rna.sequence}\n" for rna in rnas)
    table = [COLUMNS] + [
        (r.id, r.family, rna_types[r.family], str(len(r.sequence)), r.structure, r.source_file) for r in rnas
    ]
    _write_gzip(dst_dir / FASTA_NAME, fasta)
    _write_gzip(dst_dir / TABLE_NAME, "".join("\t".join(row) + "\n" for row in table))
    provenance = _provenance(src_dir, rnas, sources, caps, rna_types)
    (dst_dir / PROVENANCE_NAME).write_text(provenance, encoding="utf-8")
    return counts


def _write_gzip(path: Path, text: str) -> None:
    """Write without file name and time in the header, so that the same text gives the same bytes."""
    path.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))


def _provenance(
    src_dir: Path,
    rnas: Sequence[Rna],
    sources: Sequence[Source],
    caps: Mapping[str, int],
    rna_types: Mapping[str, str],
) -> str:
    """The page that says where the corpus comes from and under which terms."""
    licence, configure = src_dir / "LICENSE", src_dir / "configure.ac"
    for needed in (licence, configure):
        if not needed.is_file():
            raise DemoCorpusError(f"{needed}: {_NO_TREE}")
    version = re.search(r"^AC_INIT\(Infernal, ([\w.]+)", configure.read_text(encoding="utf-8"), re.MULTILINE)
    if version is None:
        raise DemoCorpusError(f"{configure}: names no version of Infernal")
    families = Counter((rna.family, rna.source_file) for rna in rnas)
    family_rows = "\n".join(
        f"| {family} | {rna_types[family]} | {count} | {source_file} |"
        for (family, source_file), count in families.items()
    )
    hash_rows = "\n".join(
        f"| {source.path} | {hashlib.sha256((src_dir / source.path).read_bytes()).hexdigest()} |" for source in sources
    )
    capped = ", ".join(f"{family} at {most}" for family, most in caps.items())
    return _PAGE.format(
        version=version[1],
        total=len(rnas),
        nucleotides=sum(len(rna.sequence) for rna in rnas),
        distinct=len({rna.sequence for rna in rnas}),
        family_rows=family_rows,
        hash_rows=hash_rows,
        capped=capped or "none",
        licence=licence.read_text(encoding="utf-8").strip(),
    )


_PAGE = """# Where the demo corpus comes from
{total} non-coding RNAs ({distinct} distinct sequences, {nucleotides} nt) from the alignments in the
test suite and tutorial of Infernal {version} (Debian source package `infernal`). To make it again:

    apt-get source infernal
    python -m raypipe.demo_corpus infernal-{version} raypipe/demo_data

What was done: gaps removed, upper case, T written as U, X (unread base) as N. A sequence that repeats within
its family is kept once. Families with a cap: {capped};
which members stay is decided by the SHA-256 of their ids. Ids are those of the alignments and unique.

Columns of the annotations: id, family, rna_type, length (nt), structure, source_file. `structure` is the
alignment's consensus structure put on that sequence: `()` pairs, letters (`Aa`) pseudoknots, `.` unpaired;
a pair whose partner is missing is opened. It is the family's consensus, not measured on each molecule.

| family | rna_type | sequences | file |
|---|---|---|---|
{family_rows}

| file | SHA-256 |
|---|---|
{hash_rows}

The families with an Rfam name are Rfam seed alignments (Rfam itself is CC0); `tRNA1415G` is the tRNA gene
compilation of Sprinzl and colleagues, `rnaseP-eubact` the RNase P database of James W. Brown.

## Licence
Infernal {version} is distributed under the BSD three-clause licence (the copyright file of the Debian package
still names the GPL-3 of older versions). Its file `LICENSE`, in full:

```text
{licence}
```
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raypipe.demo_corpus", description=_PURPOSE)
    parser.add_argument("src_dir", type=Path, help="unpacked tree of `apt-get source infernal`")
    parser.add_argument("dst_dir", type=Path, help="folder that receives the corpus")
    options = parser.parse_args(argv)
    try:
        counts = build(options.src_dir, options.dst_dir)
    except RaypipeError as error:
        parser.exit(1, f"{error}\n")
    for family, count in counts.items():
        print(f"{count:6d}  {family}")
    print(f"{counts.total():6d}  in all, written to {options.dst_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
