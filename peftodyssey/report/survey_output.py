"""What `check DIR` prints of a directory of results. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from peftodyssey.report.console_output import plain_table, size
from peftodyssey.store.survey import TABLES, Survey


def lines(found: Survey, root: Path) -> Iterator[Any]:
    """A table of what lies there, a line for each damage, and what to do about it."""
    table = plain_table("kind", "folders", "files", "size", "damaged")
    for part in found.parts:
        table.add_row(part.kind, str(part.folders), f"{part.files:,}", size(part.size_bytes), str(part.damaged))
    yield table
    yield from (Text(f"damaged: {damage}") for damage in found.damage)
    if found.left_over:
        count = len(found.left_over)
        files = f"{count} temporary file{'s' * (count > 1)}"
        yield Text(f"{files} of ended processes; --repair or the next run deletes them")
    if not found.damage:
        yield Text(f"{root}: every file is as it was written")
    elif {damage.place for damage in found.damage} == {TABLES}:
        yield Text(f"next: peftodyssey report {root}")
    else:
        yield Text(f"next: peftodyssey run RECIPE --out {root}, which makes again what is damaged")
