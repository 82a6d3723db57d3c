"""SQL over the files of a run, by DuckDB, read-only.

Views: one a table (`results`, `learning_curves`, `token_breakdown`, ...), `cells` (manifests) and `tokens`
(every scored token). SQL sees tables in memory only: it can neither read nor write a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.errors import InputError, StoreError
from peftodyssey.store import layout, manifest, parquet, plans, table_record, tables
from peftodyssey.store.limited_sql import answer, sealed_connection
from peftodyssey.store.views import CELLS, N_EXAMPLES, RUN_COLUMN, TOKENS, Views
from peftodyssey.untrusted import limits

READING = ("SELECT", "EXPLAIN")  # DESCRIBE and SUMMARIZE are parsed as SELECT

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

AGAIN = "`peftodyssey run RECIPE --out {root}` makes it again"


def overview(folders: Sequence[Path], views: Views) -> tuple[list[tuple[str, str]], list[str]]:
    """The views that have rows in these runs, each with a sentence, and ten queries that can be run on them."""
    filled = [
        (name, view.sentence)
        for name, view in views.by_name.items()
        if (view.file is None and view.sql is None) or query(folders, f"from {name} limit 1", views).num_rows
    ]
    names = {view for view, _ in filled}
    return filled, [sql for sql in views.examples if set(_named(sql, views)) <= names][:N_EXAMPLES]


def columns_of(view: str, views: Views) -> pa.Table:
    """The columns of a view with type and sentence; InputError where there is no such view."""
    import pyarrow as pa

    if view not in views.by_name:
        raise InputError(f"there is no view {view!r}", f"views: {', '.join(views.by_name)}")
    columns = views.by_name[view].columns
    rows = [{"column": name, "type": kind, "what it is": text} for name, (kind, text) in columns.items()]
    return pa.Table.from_pylist(rows)


def query(folders: Sequence[Path], sql: str, views: Views, timeout_s: float = limits.SQL_SECONDS) -> pa.Table:
    """The answer to one SELECT, DESCRIBE or EXPLAIN over the runs in `folders`; or to a query, or view, by its name.

    Raises InputError with DuckDB's message where the SQL is wrong, or exceeds `timeout_s` or the limit of memory,
    StoreError where a folder holds no run.
    """
    sql = views.named.get(sql.strip(), f"from {sql}" if sql.strip() in views.by_name else sql)
    with sealed_connection() as connection:
        _check(connection, sql)
        for name in _with_read(_named(sql, views), views):
            view = views.by_name[name]
            if view.sql is not None:
                connection.execute(f"create temp view {name} as {view.sql}")
            else:
                connection.register(name, _load(name, views, folders))
        return answer(connection, sql, timeout_s)


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises InputError where `sql` is not one statement that only reads."""
    import duckdb

    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error:
        return  # its own message is the answer
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1 or kinds[0] not in READING:
        raise InputError(
            f"a query is one statement that reads, and this is {' and '.join(kinds) or 'none'}",
            "write one SELECT, DESCRIBE or EXPLAIN; `peftodyssey query DIR` lists the views and the named queries",
        )


def _named(sql: str, views: Views) -> list[str]:
    """The views that `sql` reads; all of them where DuckDB cannot tell, so that its own message is the answer."""
    import duckdb

    with sealed_connection() as empty:
        try:
            named = {name.split(".")[-1].strip('"').lower() for name in empty.get_table_names(sql)}
        except duckdb.ParserException:
            return []
        except duckdb.Error:
            named = {view for view in views.by_name if view in sql.lower()}
    return [view for view in views.by_name if view in named]


def _with_read(names: Sequence[str], views: Views) -> list[str]:
    """The views of these names, each behind those that it reads."""
    return list(dict.fromkeys(name for one in names for name in (*views.by_name[one].reads, one)))


def _with_run(folder: Path, table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return table.add_column(0, "run", pa.array([folder.resolve().name] * table.num_rows, pa.string()))


def _concatenated(folders: Sequence[Path], read: Callable[[Path], pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([_with_run(folder, read(folder)) for folder in folders])


def _load(name: str, views: Views, folders: Sequence[Path]) -> pa.Table:
    """The rows of a view of several runs."""
    view, scoring = views.by_name[name], views.scoring
    if view.file is None:
        return _cells(folders, scoring) if name == "cells" else _tokens(folders, scoring)
    file, columns = view.file, [column for column in view.columns if column not in RUN_COLUMN]
    again = "" if scoring is None else f" --scoring {scoring}"

    def read(folder: Path) -> pa.Table:
        tables_folder, next_step = layout.tables_folder(folder, scoring), f"run `peftodyssey report {folder}{again}`"
        return table_record.read(tables_folder, file, next_step).select(columns)

    return _concatenated(folders, read)


def _cells(folders: Sequence[Path], scoring: str | None) -> pa.Table:
    import pyarrow as pa

    return _concatenated(
        folders, lambda folder: pa.Table.from_pylist(_cell_rows(folder, scoring), schema=tables.schema(CELLS))
    )


def _cell_rows(folder: Path, scoring: str | None) -> list[dict[str, Any]]:
    rows = []
    for cell in plans.cells(folder, scoring):
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


def _tokens(folders: Sequence[Path], scoring: str | None) -> pa.Table:
    return _concatenated(folders, lambda folder: _token_rows(folder, scoring))


def _token_rows(folder: Path, scoring: str | None) -> pa.Table:
    import pyarrow as pa

    pieces: dict[str, pa.Table] = {}
    parts = [tables.schema(TOKENS).empty_table()]
    for cell in plans.cells(folder, scoring):
        for split, name, score in texts(cell):
            folders = [score[key] for key in ("index", "before", "after")]
            if all(manifest.read(folder / one) for one in folders):
                if score["index"] not in pieces:
                    pieces[score["index"]] = token_pieces(folder / score["index"])
                parts.append(_scored(folder, cell, name, split, score, pieces[score["index"]]))
            else:
                _refuse_damaged(folder, folders)
    return pa.concat_tables(parts)


def _refuse_damaged(root: Path, folders: Sequence[str]) -> None:
    """StoreError where a folder is damaged: without it sums over tokens would be others."""
    for name in folders:
        if wrong := manifest.damage(root / name):
            raise StoreError(
                f"{root / name} is damaged: {manifest.in_words(wrong)}", f"{AGAIN.format(root=root)}, or read `results`"
            )


def texts(cell: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(split, name of the text, its score paths) of everything that the plan scores for `cell`."""
    scores = cell["scores"]
    domain = cell["coordinates"]["domain"]
    own = [(split, domain, scores[split]) for split in ("test", "valid") if scores.get(split)]
    others = {"general": scores.get("general") or (), **cell.get("texts", {})}
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


def _scored(
    folder: Path, cell: Mapping[str, Any], name: str, split: str, score: Mapping[str, Any], pieces: pa.Table
) -> pa.Table:
    import pyarrow as pa

    before, rank_before = parquet.read_nll(folder / score["before"])
    after, rank_after = parquet.read_nll(folder / score["after"])
    coordinates = {**cell["coordinates"], "cell": cell["cell"], "domain": name, "split": split}
    schema = tables.schema(TOKENS)
    constants = [
        pa.repeat(pa.scalar(coordinates[column], schema.field(column).type), len(before))
        for column in ("cell", "label", "method", "lr", "seed", "domain", "split")
    ]
    columns = [*constants, *pieces.columns, before, after, after - before, rank_before, rank_after]
    return pa.table(columns, schema=schema)
