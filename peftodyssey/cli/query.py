"""`peftodyssey query`: SQL over the tables and tokens of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.options import ScoringOpt, console, say, usage
from peftodyssey.recipe.option_values import seconds
from peftodyssey.untrusted import limits


def query(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR... [SQL]", help="Directories, then the query: SQL, or a name.")
    ],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a row.")] = False,
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write a parquet file.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="VIEW", help="List the columns of a view.")
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Time after which the query is stopped.")] = "60s",
    scoring: ScoringOpt = None,
) -> None:
    """SQL (DuckDB) over results and tokens; without SQL, the views and example queries for this run."""
    from peftodyssey import api
    from peftodyssey.report import query_output
    from peftodyssey.store.query import columns_of, overview
    from peftodyssey.store.query import query as ask

    if csv + json + (parquet is not None) > 1:
        raise usage("--csv, --json and --parquet are three forms of one answer: give one")
    views = api.views(folders[0], scoring)
    last = str(folders[-1])
    # Path.is_dir raises where SQL is too long for a name
    sql = last if len(folders) > 1 and not os.path.isdir(last) else None
    if sql is None and columns is None:
        for part in query_output.views(overview(folders, views)):
            console().print(part, soft_wrap=True)
        return
    table = (
        columns_of(columns, views)
        if columns is not None
        else ask(folders[:-1] if sql else folders, str(sql), views, seconds(timeout) or limits.SQL_SECONDS)
    )
    if csv:
        sys.stdout.write(query_output.as_csv(table))
    elif json:
        sys.stdout.write(query_output.as_json(table))
    elif parquet is not None:
        query_output.write_parquet(table, parquet)
        say(f"{table.num_rows:,} rows: {parquet}")
    else:
        console().print(query_output.as_table(table, console().width))
