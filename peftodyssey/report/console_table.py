"""The table at the end of a run: a line per method, text and base, at its selected learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.display import counts, result_text

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("method", "learning rate", "change on test", "forgetting", "memory")


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The selected cells as a `rich` table of 80 columns; under each change its 95 % interval."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    columns, lines = cells(rows)
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, caption_justify="left", caption=CAPTION)
    made.add_column(columns[0], overflow="fold")
    for heading in HEADINGS:
        made.add_column(heading, overflow="fold", no_wrap=heading != "method")
    first = len(columns) - len(HEADINGS)
    for line in lines:
        made.add_row(escape("\n".join(line[:first])), *(_two_lines(text) for text in line[first:]))
    return made


def _two_lines(text: str) -> str:
    """A number above its interval or remark; square brackets escaped, because `rich` reads them as style."""
    from rich.markup import escape

    first, mark, rest = text.partition(" [")
    if mark:
        return f"{first}\n{escape('[' + rest.replace(', ', ','))}"
    first, mark, rest = text.partition(" (")
    return escape(f"{first}\n{rest.removesuffix(')')}" if mark else text)


CAPTION = "nats per token, negative is better; [95 % interval]; learning rates chosen on validation"
_VARIED = (("text", "domain"), ("run", "run"), ("model", "model"), ("base", "revision"), ("seed", "seed"))


def cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of the table; coordinates that never vary are left out, except the text adapted to."""
    picked = result_text.selected_cells(rows)
    varied = [(heading, key) for heading, key in _VARIED if key == "domain" or len({str(r.get(key)) for r in rows}) > 1]
    lines = [
        [*(result_text.text_name(row) if key == "domain" else _word(row.get(key)) for _, key in varied), *_numbers(row)]
        for row in picked
    ]
    return [*(heading for heading, _ in varied), *HEADINGS], lines


def _word(value: object) -> str:
    return "-" if value is None else str(value)


def _memory(row: Mapping[str, Any]) -> str:
    """The peak of the cell's training; the planned one where cells were trained together."""
    if (row.get("multi_lora_size") or 1) > 1:
        return f"{counts.format_bytes(row['planned_memory_bytes'])} (planned)"
    return counts.format_bytes(row["peak_memory_bytes"])


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["label"]),
        result_text.learning_rate(row),
        result_text.delta(row),
        result_text.forgetting(row),
        _memory(row),
    ]
