"""What kind of table an annotation file is, and what its columns are called: told by its name and its first lines.

Files with a header name their columns themselves. Those that come without one are known here: RNAcentral's and Rfam's
dumps, GFF3 and BED. Coordinates stay as they are in the file, under names that say how they count.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from index.errors import StoreError

# RNAcentral's files come without a header line; the columns are those of its and Rfam's documentation.
ID_MAPPING = ["urs", "database", "external_id", "taxid", "rna_type", "gene"]
RFAM_ANNOTATIONS = [
    "urs",
    "rfam_acc",
    "score",
    "e_value",
    "sequence_start",
    "sequence_stop",
    "model_start",
    "model_stop",
    "rfam_name",
]
# The tables of Rfam's database, as its server has them.
RFAM_FAMILY = [
    "rfam_acc",
    "rfam_id",
    "auto_wiki",
    "description",
    "author",
    "seed_source",
    "gathering_cutoff",
    "trusted_cutoff",
    "noise_cutoff",
    "comment",
    "previous_id",
    "cmbuild",
    "cmcalibrate",
    "cmsearch",
    "num_seed",
    "num_full",
    "num_genome_seq",
    "num_refseq",
    "type",
    "structure_source",
    "number_of_species",
    "number_3d_structures",
    "num_pseudoknots",
    "tax_seed",
    "ecmli_lambda",
    "ecmli_mu",
    "ecmli_cal_db",
    "ecmli_cal_hits",
    "maxl",
    "clen",
    "match_pair_node",
    "hmm_tau",
    "hmm_lambda",
    "created",
    "updated",
]
CLAN_MEMBERSHIP = ["clan_acc", "rfam_acc"]
GFF = ["chromosome", "gff_source", "gff_type", "gff_start", "gff_end", "gff_score", "strand", "phase", "attributes"]
BED = [
    "chromosome",
    "bed_start",
    "bed_end",
    "name",
    "bed_score",
    "strand",
    "thick_start",
    "thick_end",
    "item_rgb",
    "block_count",
    "block_sizes",
    "block_starts",
]
BED_OF_RNACENTRAL: list[str] = ["bed_13", "rna_type", "databases"]
COORDINATES = {
    "gff": "gff_start and gff_end count from 1, the end is included",
    "bed": "bed_start and bed_end count from 0, the end is not included",
}
_URS = re.compile(r"URS[0-9A-F]{10}(_\d+)?")
_RFAM = re.compile(r"RF\d{5}")
_CLAN = re.compile(r"CL\d{5}")
_NO_DATA = ("#", "track ", "track\t", "browser ")
LOOKED_AT = 10_000  # lines before the first row of a GFF or BED file, at most


@dataclass(frozen=True)
class Shape:
    """How a text file is to be read.

    Attributes:
        kind: "table", "gff" or "bed".
        columns: their names, in order.
        header: whether the first line names them.
        nulls: what stands for nothing, besides nothing.
        comments: whether lines of a "#" are no rows.
    """

    kind: str
    columns: list[str]
    delimiter: str
    header: bool
    nulls: tuple[str, ...] = ()
    comments: bool = False


def find_shape(path: Path, first: str, lines: Callable[[], Iterable[str]]) -> Shape:
    """The shape of a file.

    Args:
        first: its first line.
        lines: its first lines, read again.

    Raises:
        StoreError: it has one column only, or none.
    """
    name = path.name.lower().removesuffix(".gz")
    if first.startswith("##gff-version") or name.endswith((".gff", ".gff3")):
        return Shape("gff", GFF, "\t", header=False, nulls=(".",), comments=True)
    if name.endswith(".bed"):
        return _bed(path, lines())
    delimiter = _delimiter(path, name, first)
    fields = first.split("\t") if delimiter == "\t" else next(csv.reader([first], delimiter=delimiter))
    known = _known_columns(fields) if delimiter == "\t" else None
    if known is not None:
        nulls = (r"\N",) if known in (RFAM_FAMILY, CLAN_MEMBERSHIP) else ()
        return Shape("table", known, delimiter, header=False, nulls=nulls)
    columns = [column.strip().removeprefix("#").strip() for column in fields]
    return Shape("table", [column or f"column_{place}" for place, column in enumerate(columns, 1)], delimiter, True)


def _bed(path: Path, lines: Iterable[str]) -> Shape:
    first = next((line for line in lines if line.strip() and not line.startswith(_NO_DATA)), "")
    count = first.count("\t") + 1
    if count < 3:
        raise StoreError(f"{path}: no line of BED in it: chromosome, start and end, separated by tabs")
    more = BED_OF_RNACENTRAL if count == len(BED) + len(BED_OF_RNACENTRAL) else []
    named = [*BED, *more]
    columns = [named[place] if place < len(named) else f"bed_{place + 1}" for place in range(count)]
    return Shape("bed", columns, "\t", header=False, nulls=(".",), comments=True)


def _delimiter(path: Path, name: str, line: str) -> str:
    """The first that occurs in the first line: tab before comma before semicolon, but comma first in a .csv file."""
    for delimiter in ",;\t" if name.endswith(".csv") else "\t,;":
        if delimiter in line:
            return delimiter
    raise StoreError(
        f"{path}: line 1 has one column only ({line[:60]!r}); an annotation file has an id column and others, "
        "separated by tabs or commas"
    )


def _known_columns(fields: list[str]) -> list[str] | None:
    """Those of a file without a header, told by the form of its first line."""
    if _URS.fullmatch(fields[0]):
        if len(fields) == len(ID_MAPPING) and fields[3].isdigit():
            return ID_MAPPING
        if len(fields) == len(RFAM_ANNOTATIONS) and _RFAM.fullmatch(fields[1]):
            return RFAM_ANNOTATIONS
    if _RFAM.fullmatch(fields[0]) and len(fields) == len(RFAM_FAMILY):
        return RFAM_FAMILY
    if _CLAN.fullmatch(fields[0]) and len(fields) == 2 and _RFAM.fullmatch(fields[1]):
        return CLAN_MEMBERSHIP
    return None
