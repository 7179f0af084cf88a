"""Verbs that ask an atlas: search, sql, info."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from cyclopts import Parameter

from raypipe import connect, is_server
from raypipe.cli.arguments import read_queries, split_list
from raypipe.cli.progress import say, warn_untrained
from raypipe.errors import UsageError

Format = Annotated[Literal["tsv", "csv", "jsonl", "parquet"], Parameter(help="Format of the answer.")]
Header = Annotated[bool, Parameter(negative="--no-header", help="Column names first, in TSV and CSV.")]
OutputFile = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="File to write; by default standard output.")
]


AskedAtlas = Annotated[
    str, Parameter(help="Folder of the atlas, its URI (s3://bucket/atlas), or the address of a server (http://...).")
]
Token = Annotated[str | None, Parameter(help="Bearer token of a server; better kept in $RAYPIPE_TOKEN.")]
# More queries than this are told of by a bar, on a terminal.
MANY = 256


def search(
    atlas: AskedAtlas,
    *queries: Annotated[str, Parameter(help="Sequences, FASTA files, or - for standard input.")],
    ids: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Ids of records in the atlas.")] = None,
    k: Annotated[int, Parameter(name=["-k", "--k"], help="Hits of each query.")] = 10,
    where: Annotated[
        str | None, Parameter(help="SQL condition that hits must meet, e.g. \"rna_type = 'tRNA'\".")
    ] = None,
    columns: Annotated[list[str] | None, Parameter(help="Columns of the answer, separated by commas.")] = None,
    min_score: Annotated[float | None, Parameter(help="Leave out hits that score less (a cosine, -1 to 1).")] = None,
    exact: Annotated[
        bool, Parameter(negative="", help="Compare with every stored vector, whatever the type of the index.")
    ] = False,
    recall: Annotated[
        float | None, Parameter(help="Recall@10 to search for; by default what the index was built for.")
    ] = None,
    all_annotations: Annotated[
        bool, Parameter(negative="", help="Lists of all annotation rows of a hit, instead of the first.")
    ] = False,
    expand_records: Annotated[
        bool, Parameter(negative="", help="A row for each record of a hit, instead of the first.")
    ] = False,
    how: Annotated[bool, Parameter(negative="", help="Say on standard error how it was searched.")] = False,
    format: Format = "tsv",
    header: Header = True,
    output: OutputFile = None,
    model: Annotated[str | None, Parameter(help="Checkpoint for queries; by default the one of the vectors.")] = None,
    allow_stale: Annotated[bool, Parameter(negative="", help="Search an index older than the embeddings.")] = False,
    gpu: Annotated[
        int | None, Parameter(help="Number of the GPU that FAISS searches on (extra gpu); by default the CPU searches.")
    ] = None,
    token: Token = None,
) -> None:
    """Find the nearest sequences, with their annotations."""
    if bool(queries) == bool(ids):
        raise UsageError("name queries (sequences or FASTA files) or --ids, one of the two")
    if is_server(atlas) and (model is not None or allow_stale or gpu is not None):
        option = "--allow-stale" if allow_stale else "--model" if model is not None else "--gpu"
        raise UsageError(f"{option}: the server has a model and an index opened already; leave it out")
    opened = open_asked(atlas, token, model=model, allow_stale=allow_stale, gpu=gpu)
    asked: dict[str, Any] = {"k": k, "where": where, "columns": split_list(columns)}
    asked.update({"min_score": min_score, "exact": exact, "recall": recall})
    asked.update({"all_annotations": all_annotations, "expand_records": expand_records})
    if ids:
        result = opened.search(ids=ids, **asked)
    else:
        names, sequences = read_queries(queries)
        if not is_server(atlas) and opened.model.trained is False:
            warn_untrained(opened.model.name)
        asked["progress"] = len(sequences) > MANY and sys.stderr.isatty()
        result = opened.search(sequences, names=names, **asked)
    if how and result.how is not None:
        done = result.how
        may = f"{done['allowed']:,} of {done['rows']:,} vectors may be found"
        say(f"index {done['version']} ({done['type']}); {may}; {'; '.join(dict.fromkeys(done['searched']))}")
    _write(result.to_arrow(), output, format, header)


def sql(
    atlas: AskedAtlas,
    query: Annotated[
        str,
        Parameter(
            help="One SELECT over sequences, records, rejects, embeddings, neighbors, predictions and annotations; "
            "search('GGUC'), neighbors('id') and embed(sequence) are functions."
        ),
    ],
    *,
    format: Format = "tsv",
    header: Header = True,
    output: OutputFile = None,
    token: Token = None,
) -> None:
    """Ask an atlas in SQL (DuckDB); read-only."""
    with open_asked(atlas, token) as opened:
        result = opened.sql(query)
        _write(result.to_arrow(), output, format, header)
        if result.truncated:
            say(f"note: the server gives {len(result):,} rows at most, and there are more; add LIMIT and OFFSET")


def info(
    atlas: AskedAtlas,
    *,
    json_output: Annotated[bool, Parameter(name="--json", negative="", help="As one JSON object.")] = False,
    token: Token = None,
) -> None:
    """Say what an atlas holds."""
    with open_asked(atlas, token) as opened:
        about = opened.info()
    if json_output:
        print(json.dumps(about, indent=2))
        return
    print(f"atlas        {about['path']}")
    apart = f"{about['rejected']:,} rejected" + (f", {about['removed']:,} removed since" if about["removed"] else "")
    print(f"records      {about['records']:,} ({apart}) from {len(about['sources'])} sources")
    print(f"sequences    {about['sequences']:,} distinct, {about['nucleotides']:,} nt, longest {about['longest']:,} nt")
    for vectors in about["embeddings"]:
        what = f"{vectors['dimension']} x {vectors['dtype']}, {vectors['pooling']} of layer {vectors['layer']}"
        print(f"embeddings   {vectors['name']}: {what}; {_state(vectors, 'embedded')}")
    for made in about["predictions"]:
        print(f"predictions  {made['name']}: {_prediction(made)}")
    index = about["index"]
    print(
        f"index        {index['type']}, {index['rows']:,} vectors, {index['space']} (version {index['version']})"
        if index
        else "index        none"
    )
    for name, columns in about["annotations"].items():
        print(f"annotations  {name}: {', '.join(columns)}")


def open_asked(target: str, token: str | None, **options: Any) -> Any:
    """An atlas on this machine, opened with `options`, or behind a server.

    Raises:
        UsageError: a token where there is no server.
    """
    if is_server(target):
        return connect(target, token)
    if token is not None:
        raise UsageError(f"--token: {target} is no server, so it takes none; leave it out")
    return connect(target, **options)


def _prediction(made: dict[str, Any]) -> str:
    labels = [*made["labels"][:4], *(["..."] if len(made["labels"]) > 4 else [])]
    named = f"{made['problem']} ({', '.join(labels)})" if len(labels) > 1 else made["problem"]
    what = ", ".join(part for part in (made["task"], named, made["method"]) if part)
    return f"{what} of {made['model']}; {_state(made, 'predicted' if 'predicted' in made else 'scored')}"


def _state(made: dict[str, Any], word: str) -> str:
    incomplete = f"; incomplete: {'; '.join(made['missing'])}" if made["missing"] else ""
    return f"{made[word]:,} {word}, {made['failed']:,} failed{incomplete}"


def _write(table: pa.Table, output: Path | None, format: str, header: bool) -> None:
    from raypipe.formats import write_table

    write_table(table, output, format, header)
