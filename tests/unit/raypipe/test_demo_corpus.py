"""The demo corpus: how it is made, and what is shipped."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import raypipe
from raypipe.demo_corpus import CAPS, IUPAC_RNA, RNA_TYPES, DemoCorpusError, Source, build, collect, main
from raypipe.stockholm import StockholmError, pair_table, project, read_stockholm

HAIRPINS = """# STOCKHOLM 1.0
#=GF ID   Hairpin
#=GF DE   Toy hairpin

one            GGC.AtAGCC
#=GR one SS    <<<....>>>
two            GG-.AUAGCC
#=GC SS_cons   <[(.._.)]>

one            aa
two            A.
#=GC SS_cons   ::
//
# STOCKHOLM 1.0
#=GF ID   Knot
three          GGAACCUU
four           GGAACCUU
five           GGAACC-U
#=GC SS_cons   <<AA>>aa
//
"""
TYPES = {"Hairpin": "toy", "Knot": "toy"}
SHIPPED = Path(raypipe.__file__).parent / "demo_data"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with one file of two alignments."""
    (tmp_path / "LICENSE").write_text("Copyright (C) 1990 Somebody\nBSD terms\n")
    (tmp_path / "configure.ac").write_text("# AC_INIT\nAC_INIT(Infernal, 9.8.7, x@y.z, infernal)\n")
    (tmp_path / "toy.sto").write_text(HAIRPINS)
    return tmp_path


def test_projection_opens_pairs_at_gaps_and_normalises_letters(tree: Path) -> None:
    rnas = {rna.id: rna for rna in collect(tree, [Source("toy.sto")], {})}
    assert (rnas["one"].sequence, rnas["one"].structure) == ("GGCAUAGCCAA", "(((...)))..")
    assert (rnas["two"].sequence, rnas["two"].structure) == ("GGAUAGCCA", "((....)).")
    assert (rnas["three"].sequence, rnas["three"].structure) == ("GGAACCUU", "((AA))aa")
    assert (rnas["five"].sequence, rnas["five"].structure) == ("GGAACCU", "((A.))a")
    assert rnas["one"].description == "Toy hairpin"


def test_a_sequence_stays_once_per_family_but_in_every_family(tree: Path) -> None:
    (tree / "other.sto").write_text("# STOCKHOLM 1.0\nsix GGAACCUU\n#=GC SS_cons ........\n//\n")
    rnas = collect(tree, [Source("toy.sto"), Source("other.sto", "Other", "Another family")], {})
    assert [rna.id for rna in rnas] == ["one", "two", "three", "five", "six"]


def test_cap_keeps_the_same_members_whatever_surrounds_them(tree: Path) -> None:
    rows = "\n".join(f"r{i} {'ACGU'[i % 4]}{'ACGU'[i // 4 % 4]}{'ACGU'[i // 16]}AAA" for i in range(64))
    (tree / "many.sto").write_text(f"# STOCKHOLM 1.0\n{rows}\n#=GC SS_cons ......\n//\n")
    many = Source("many.sto", "Many", "Many")
    alone = [rna.id for rna in collect(tree, [many], {"Many": 10})]
    together = [rna.id for rna in collect(tree, [Source("toy.sto"), many], {"Many": 10})]
    assert len(alone) == 10
    assert together[-10:] == alone
    assert alone != [f"r{i}" for i in range(10)]
    assert set(alone) < {rna.id for rna in collect(tree, [many], {"Many": 11})}


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        counts = build(tree, tmp_path / name, [Source("toy.sto")], {"Knot": 1}, TYPES)
    assert counts == {"Hairpin": 2, "Knot": 1}
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["PROVENANCE.md", "annotations.tsv.gz", "demo.fasta.gz"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    page = (tmp_path / "first" / "PROVENANCE.md").read_text()
    assert "Infernal 9.8.7" in page
    assert "Copyright (C) 1990 Somebody" in page
    assert "Knot at 1" in page
    with gzip.open(tmp_path / "first" / "demo.fasta.gz", "rt") as stream:
        assert stream.read().startswith(">one Hairpin Toy hairpin\nGGCAUAGCCAA\n")


def test_two_sequences_with_one_id_are_refused(tree: Path) -> None:
    (tree / "other.sto").write_text("# STOCKHOLM 1.0\none GGAA\n#=GC SS_cons ....\n//\n")
    with pytest.raises(DemoCorpusError, match=r"id one: other\.sto and toy\.sto have different sequences"):
        collect(tree, [Source("toy.sto"), Source("other.sto", "Other")], {})


def test_protein_and_untyped_families_are_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoCorpusError, match="no rna_type is known for Hairpin, Knot"):
        build(tree, tmp_path / "out", [Source("toy.sto")], {}, {})
    (tree / "toy.sto").write_text("# STOCKHOLM 1.0\np MKLE\n#=GC SS_cons ....\n//\n")
    with pytest.raises(DemoCorpusError, match=r"p is empty or has letters outside RNA: \['E', 'L'\]"):
        collect(tree, [Source("toy.sto", "Protein")], {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">one\nACGU\n", r"toy\.sto:1: expected '# STOCKHOLM 1\.0'"),
        ("# STOCKHOLM 1.0\none ACGU\n#=GC SS_cons ....\n", "no closing '//'"),
        ("# STOCKHOLM 1.0\none ACGU\n# STOCKHOLM 1.0\n", r"toy\.sto:3: an alignment starts"),
        ("# STOCKHOLM 1.0\none ACGU\n//\n", r"toy\.sto:3: .*no '#=GC SS_cons'"),
        ("# STOCKHOLM 1.0\none ACG\n#=GC SS_cons ....\n//\n", "one has 3 columns, .* has 4"),
        ("# STOCKHOLM 1.0\none AC GU\n#=GC SS_cons ....\n//\n", r"toy\.sto:2: expected name"),
        ("\n", "no alignment found"),
    ],
)
def test_broken_stockholm_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "toy.sto"
    path.write_text(text)
    with pytest.raises(StockholmError, match=message):
        read_stockholm(path)


@pytest.mark.parametrize(
    ("wuss", "message"),
    [
        ("<<..>", "column 1: '<' is never closed"),
        ("<..>>", "column 5: '>' closes no '<'"),
        ("<..)", "column 4: '\\)' closes no '\\('"),
        ("<[>]", "column 3: '>' closes no '<'"),
        ("A..b", "column 4: 'b' closes no 'B'"),
        ("<.8>", "column 3: '8' is not WUSS"),
    ],
)
def test_unbalanced_structures_are_refused(wuss: str, message: str) -> None:
    with pytest.raises(StockholmError, match=message):
        pair_table(wuss)


def test_pseudoknots_may_cross_brackets_and_each_other() -> None:
    wuss = "<AB>ab"
    assert pair_table(wuss) == [3, 4, 5, 0, 1, 2]
    assert project("GGGCCC", wuss, pair_table(wuss)) == ("GGGCCC", "(AB)ab")


def test_command_line_says_which_file_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "testsuite/tRNA.sto: no such file; SRC_DIR must be" in capsys.readouterr().err


def test_the_script_loads_neither_torch_nor_ray() -> None:
    code = "import sys, raypipe.demo_corpus; sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def shipped_fasta() -> dict[str, tuple[str, str]]:
    """Description and sequence by id; a repeated id fails."""
    with gzip.open(SHIPPED / "demo.fasta.gz", "rt", encoding="ascii") as stream:
        lines = stream.read().splitlines()
    records = list(zip(lines[::2], lines[1::2], strict=True))
    assert all(header.startswith(">") for header, _ in records)
    by_id = {h[1:].split(" ", 1)[0]: (h.split(" ", 1)[1], sequence) for h, sequence in records}
    assert len(by_id) == len(records)
    return by_id


def shipped_table() -> list[dict[str, str]]:
    with gzip.open(SHIPPED / "annotations.tsv.gz", "rt", encoding="ascii", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_shipped_corpus_is_whole() -> None:
    fasta, table = shipped_fasta(), shipped_table()
    assert [row["id"] for row in table] == list(fasta)
    counts = Counter(row["family"] for row in table)
    assert counts == {
        "tRNA": 400,
        "5S_rRNA": 300,
        "SSU_rRNA_bacteria": 12,
        "Cobalamin": 200,
        "RNaseP_bact": 120,
        "U1": 78,
        "U2": 77,
        "U3": 21,
        "snR75": 62,
        "Vault": 74,
        "Plant_SRP": 58,
        "Euk_SRP": 37,
    }
    assert all(counts[family] == most for family, most in CAPS.items())
    assert sum(path.stat().st_size for path in SHIPPED.iterdir() if path.is_file()) < 400_000


def test_shipped_annotations_fit_their_sequences() -> None:
    fasta = shipped_fasta()
    for row in shipped_table():
        description, sequence = fasta[row["id"]]
        assert description.split()[0] == row["family"]
        assert RNA_TYPES[row["family"]] == row["rna_type"]
        assert set(sequence) <= IUPAC_RNA
        assert int(row["length"]) == len(sequence) == len(row["structure"])
        paired = sum(partner is not None for partner in pair_table(row["structure"]))
        assert paired == sum(mark != "." for mark in row["structure"])


def test_shipped_structures_are_made_of_base_pairs() -> None:
    """Most projected pairs are Watson-Crick or GU: a shift by one column would leave about 3 in 8."""
    fasta = shipped_fasta()
    partners = {"AU", "UA", "GC", "CG", "GU", "UG"}
    good = total = 0
    for row in shipped_table():
        sequence = fasta[row["id"]][1]
        for left, right in enumerate(pair_table(row["structure"])):
            if right is not None and left < right:
                total += 1
                good += sequence[left] + sequence[right] in partners
    assert total > 60_000
    assert good / total > 0.92


def test_provenance_carries_licence_and_sources() -> None:
    page = (SHIPPED / "PROVENANCE.md").read_text(encoding="utf-8")
    assert "Infernal 1.1.4" in page
    assert "Redistributions in binary form must reproduce the above" in page
    assert "Copyright (C) 2000-2020      Howard Hughes Medical Institute" in page
    assert len(set(shipped_fasta())) == 1439
    assert "1439 non-coding RNAs" in page
