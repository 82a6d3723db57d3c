"""The answer to a query as a table, as blocks, as CSV, JSON or parquet; the views of a run and example queries."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from peftodyssey.report.console_output import plain_table
from peftodyssey.store import atomic
from peftodyssey.store.views import NAMED

if TYPE_CHECKING:
    import pyarrow as pa

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def as_table(table: pa.Table, width: int, limit: int = 200) -> RenderableType:
    """A query's answer, its first rows: a table, or a block per row where the table is wider than `width` columns."""
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.slice(0, limit).columns]
    rows = [list(row) for row in zip(*columns, strict=True)]  # by place: two columns may have one name
    more = f"{table.num_rows - limit:,} more rows; --csv prints all" if table.num_rows > limit else ""
    names = table.column_names
    widths = [max(len(name), *(len(row[i]) for row in rows), 0) for i, name in enumerate(names)]
    if sum(widths) + 2 * len(widths) > width and "what it is" not in names:
        left = max(map(len, names))
        blocks = ["\n".join(f"{name:<{left}}  {value}" for name, value in zip(names, row, strict=True)) for row in rows]
        return Text("\n\n".join([*blocks, *([more] if more else [])]))
    shown = plain_table(*names)
    for row in rows:
        shown.add_row(*map(Text, row))
    shown.caption = more or None
    return shown


def views(overview: tuple[list[tuple[str, str]], list[str]]) -> Iterator[Any]:
    """The views of a run, a line each, and queries that can be run on it."""
    filled, examples = overview
    left = max(len(name) for name, _ in filled)
    yield "Views:"
    yield Text("\n".join(f"  {name:<{left}}  {sentence}" for name, sentence in filled))
    yield f"\nQueries by name, as `peftodyssey query DIR NAME`: {', '.join(NAMED)}, or any view."
    yield "\nQueries for this run (`--columns VIEW` lists columns; `--csv`, `--json` and `--parquet FILE` are forms):"
    yield Text("\n".join(f"  {sql}" for sql in examples))


def as_csv(table: pa.Table) -> str:
    """A query's answer as CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = pc.replace_substring_regex(table[number], r"\A([=+@\t\r-])", r"'\1")
            table = table.set_column(number, field, texts)
    out = io.BytesIO()
    pyarrow.csv.write_csv(table, out)
    return out.getvalue().decode()


def as_json(table: pa.Table) -> str:
    """A query's answer as a JSON array, an object a row."""
    return json.dumps(table.to_pylist(), indent=1, ensure_ascii=False, default=str) + "\n"


def write_parquet(table: pa.Table, path: Path) -> None:
    """A query's answer as a parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    with atomic.io_errors_as_store_error(path.parent), atomic.atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """`text` with control characters, which a terminal would obey, spelt out; line breaks and tabs stay."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
