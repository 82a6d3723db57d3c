"""SQL over what a run left on disk, by DuckDB, read-only. Called by the `query` verb, the Python API and `opened`.

Views: one a table (`results`, `learning_curves`, `token_breakdown`, ..., `noise`), `cells` (manifests) and `tokens`
(every scored token). SQL sees tables in memory only: it can neither read nor write a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.errors import InputError, StoreError
from peftodyssey.store import layout, manifest, parquet, plans, tables

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


RUN_COLUMN = {"run": ("string", "name of the output directory")}
CELLS: tables.Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "folder": ("string", "where the cell lies below the output directory"),
    "status": ("string", "done, failed, stopped (early, by successive halving), pending"),
    "manifest": ("string", "the cell's manifest as JSON; DuckDB reads into it: manifest->>'$.facts.seconds'"),
}
TOKENS: tables.Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "domain": ("string", "the text scored"),
    "split": ("string", "test, valid, general, or transfer (another domain of the recipe)"),
    "document": ("int32", "number of the document within its text"),
    "position": ("int32", "number of the token within its document"),
    "token": ("int32", "id of the token"),
    "text": ("string", "the characters that the token stands for"),
    "class": ("string", "class of the token: " + ", ".join(TOKEN_CLASSES)),
    "nll_before": ("float32", "NLL of the unquantised base, nats"),
    "nll_after": ("float32", "NLL after adaptation, nats"),
    "delta": ("float32", "nll_after - nll_before, nats; positive: worse"),
    "rank_before": (
        "int32",
        "rank of the token among the vocabulary under the unquantised base, from 1; -1: not scored",
    ),
    "rank_after": ("int32", "its rank after adaptation"),
}
VIEWS: dict[str, tables.Columns] = {
    "results": {**RUN_COLUMN, **tables.RESULTS},
    "learning_curves": {**RUN_COLUMN, **tables.LEARNING_CURVES},
    "token_breakdown": {**RUN_COLUMN, **tables.TOKEN_BREAKDOWN},
    "concentration": {**RUN_COLUMN, **tables.CONCENTRATION},
    "terms": {**RUN_COLUMN, **tables.TERMS},
    "token_ranks": {**RUN_COLUMN, **tables.TOKEN_RANKS},
    "transfer": {**RUN_COLUMN, **tables.TRANSFER},
    "tasks": {**RUN_COLUMN, **tables.TASKS},
    "wise_ft": {**RUN_COLUMN, **tables.WISE_FT},
    "noise": {**RUN_COLUMN, **tables.NOISE},
    "sensitivity": {**RUN_COLUMN, **tables.SENSITIVITY},
    "annealing": {**RUN_COLUMN, **tables.ANNEALING},
    "sharpness": {**RUN_COLUMN, **tables.SHARPNESS},
    "geometry": {**RUN_COLUMN, **tables.GEOMETRY},
    "similarity": {**RUN_COLUMN, **tables.SIMILARITY},
    "correlation": {**RUN_COLUMN, **tables.CORRELATION},
    "cells": {**RUN_COLUMN, **CELLS},
    "tokens": {**RUN_COLUMN, **TOKENS},
}


def query(folders: Sequence[Path], sql: str | None = None) -> pa.Table:
    """The answer to one SELECT over the runs in `folders`; without `sql`, the views and their columns.

    Raises InputError with DuckDB's message where the SQL is wrong, StoreError where a folder holds no run.
    """
    import duckdb

    if not sql or not sql.strip():
        return listing()
    with _sealed() as connection:
        for name in _named(sql):
            connection.register(name, _LOADERS[name](folders))
        try:
            return _answer(connection, sql)
        except duckdb.Error as error:
            raise InputError(
                f"DuckDB cannot answer: {error}",
                "`peftodyssey query DIR` without SQL lists the views and columns",
            ) from error


def listing() -> pa.Table:
    """Every view and column with its type and sentence."""
    import pyarrow as pa

    rows = [
        {"view": view, "column": column, "type": kind, "what it is": text}
        for view, columns in VIEWS.items()
        for column, (kind, text) in columns.items()
    ]
    return pa.Table.from_pylist(rows)


def _sealed() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches no file, no network and no variable of Python, and cannot be talked into it."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"temp_directory": ""})
    for setting in ("enable_external_access", "python_enable_replacements"):
        connection.execute(f"set {setting}=false")
    connection.execute("set lock_configuration=true")
    return connection


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    import pyarrow as pa

    relation = connection.sql(sql)
    return relation.to_arrow_table() if relation is not None else pa.table({})


def _named(sql: str) -> list[str]:
    """The views that `sql` reads; all of them where DuckDB cannot tell, so that its own message is the answer."""
    import duckdb

    with _sealed() as empty:
        try:
            named = {name.split(".")[-1].strip('"').lower() for name in empty.get_table_names(sql)}
        except duckdb.ParserException:
            return []
        except duckdb.Error:
            named = {view for view in VIEWS if view in sql.lower()}
    return [view for view in VIEWS if view in named]


def _with_run(folder: Path, table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return table.add_column(0, "run", pa.array([folder.resolve().name] * table.num_rows, pa.string()))


def _concatenated(folders: Sequence[Path], read: Callable[[Path], pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([_with_run(folder, read(folder)) for folder in folders])


def _collected(name: str, columns: tables.Columns) -> Callable[[Sequence[Path]], pa.Table]:
    def read(folder: Path) -> pa.Table:
        if not (folder / name).is_file():
            raise StoreError(f"{folder} holds no {name}", f"run `peftodyssey report {folder}` first")
        return parquet.read(folder / name).select(list(columns))

    return lambda folders: _concatenated(folders, read)


def _cells(folders: Sequence[Path]) -> pa.Table:
    import pyarrow as pa

    return _concatenated(folders, lambda folder: pa.Table.from_pylist(_cell_rows(folder), schema=tables.schema(CELLS)))


def _cell_rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for cell in plans.cells(folder):
        content = manifest.status_record(folder / cell["folder"])
        rows.append(
            {
                "cell": cell["cell"],
                "folder": cell["folder"],
                "status": content["status"],
                "manifest": json.dumps(content),
            }
        )
    return rows


def _tokens(folders: Sequence[Path]) -> pa.Table:
    return _concatenated(folders, _token_rows)


def _token_rows(folder: Path) -> pa.Table:
    import pyarrow as pa

    pieces: dict[str, pa.Table] = {}
    parts = [tables.schema(TOKENS).empty_table()]
    for cell in plans.cells(folder):
        for split, name, score in texts(cell):
            if all(manifest.read(folder / score[key]) for key in ("index", "before", "after")):
                if score["index"] not in pieces:
                    pieces[score["index"]] = token_pieces(folder / score["index"])
                parts.append(_scored(folder, cell["cell"], name, split, score, pieces[score["index"]]))
    return pa.concat_tables(parts)


def texts(cell: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(split, name of the text, its score paths) of everything that the plan scores for `cell`."""
    scores = cell["scores"]
    domain = cell["coordinates"]["domain"]
    own = [(split, domain, scores[split]) for split in ("test", "valid") if scores.get(split)]
    others = {"general": scores.get("general") or (), "transfer": cell.get("transfer") or ()}
    return own + [(split, score["name"], score) for split, found in others.items() for score in found]


def token_pieces(index_folder: Path) -> pa.Table:
    """`document, position, token, text, class` of an index, row for row; a token's text is cut from its document."""
    import pyarrow as pa

    index = parquet.read(index_folder / layout.INDEX)
    documents = parquet.read(index_folder / layout.DOCUMENTS)
    by_number = dict(zip(documents["document"].to_pylist(), documents["text"].to_pylist(), strict=True))
    spans = zip(*(index[name].to_pylist() for name in ("document", "start", "end")), strict=True)
    text = [by_number[document][start:end] for document, start, end in spans]
    classes = [TOKEN_CLASSES[number] for number in index["class"].to_pylist()]
    columns = [index[name].cast(pa.int32()) for name in ("document", "position", "token")]
    return pa.table([*columns, text, classes], names=["document", "position", "token", "text", "class"])


def _scored(folder: Path, cell: str, name: str, split: str, score: Mapping[str, Any], pieces: pa.Table) -> pa.Table:
    import pyarrow as pa

    before, rank_before = parquet.read_nll(folder / score["before"])
    after, rank_after = parquet.read_nll(folder / score["after"])
    constants = [pa.array([value] * len(before), pa.string()) for value in (cell, name, split)]
    columns = [*constants, *pieces.columns, before, after, after - before, rank_before, rank_after]
    return pa.table(columns, schema=tables.schema(TOKENS))


_LOADERS: dict[str, Callable[[Sequence[Path]], pa.Table]] = {
    "results": _collected(layout.RESULTS, tables.RESULTS),
    "learning_curves": _collected(layout.LEARNING_CURVES, tables.LEARNING_CURVES),
    "token_breakdown": _collected(layout.TOKEN_BREAKDOWN, tables.TOKEN_BREAKDOWN),
    "concentration": _collected(layout.CONCENTRATION, tables.CONCENTRATION),
    "terms": _collected(layout.TERMS, tables.TERMS),
    "token_ranks": _collected(layout.TOKEN_RANKS, tables.TOKEN_RANKS),
    "transfer": _collected(layout.TRANSFER, tables.TRANSFER),
    "tasks": _collected(layout.TASKS, tables.TASKS),
    "wise_ft": _collected(layout.WISE_FT, tables.WISE_FT),
    "noise": _collected(layout.NOISE_TABLE, tables.NOISE),
    "sensitivity": _collected(layout.SENSITIVITY, tables.SENSITIVITY),
    "annealing": _collected(layout.ANNEALING, tables.ANNEALING),
    "sharpness": _collected(layout.SHARPNESS, tables.SHARPNESS),
    "geometry": _collected(layout.GEOMETRY, tables.GEOMETRY),
    "similarity": _collected(layout.SIMILARITY, tables.SIMILARITY),
    "correlation": _collected(layout.CORRELATION, tables.CORRELATION),
    "cells": _cells,
    "tokens": _tokens,
}
