"""Section: the best learning rate of each method, and what missing it costs."""

from __future__ import annotations

from collections.abc import Sequence

from peftodyssey.display.result_text import (
    NO_NUMBER,
    UNIT,
    Row,
    coordinates,
    ends,
    format_lr,
    method_name,
    rate_to_add,
    signed,
    text_name,
)
from peftodyssey.display.section import Section

TITLE = "Which learning rate is best?"
HEADINGS = ("text", "method", "selected", "optimum", "interval", "a factor of two costs", "interval", "unresolved")
CAPTION = (
    "Selected: the lowest validation NLL, pooled over seeds. Optimum: of the parabola in log rate through it and its "
    "neighbours, with 95 % intervals; costs in nats per token of validation text."
)
DIGITS = 4


def section(rows: Sequence[Row]) -> Section | None:
    """A sentence for each method on each text and base, and a table; None without tuned rates."""
    if not rows:
        return None
    said = [_sentence(row, rows) for row in rows if row["lr"] is not None]
    table = [_line(row, rows) for row in rows]
    return Section("learning_rates", TITLE, said, headings=HEADINGS, table=table, caption=CAPTION, place="end")


def _sentence(row: Row, rows: Sequence[Row]) -> str:
    seeds = f"over {row['seeds']} seeds" if row["seeds"] > 1 else "with one seed"
    start = (
        f"{_place(row, rows)}, {_name(row)}: {format_lr(row['lr'])} is best of {row['rates_measured']} rates {seeds}"
    )
    if row["lr_edge"]:
        return f"{start}, and not resolved: {row['reason']}. To add: {rate_to_add(row)}."
    if row["lr_optimum"] is None:
        return f"{start}. No optimum is interpolated: {row['reason']}."
    interval, covers = _rates(row), f" (over {row['covers']})" if row["covers"] else ""
    cost = f"{row['factor_two_cost']:.{DIGITS}f} {UNIT} {_costs(row)}"
    return f"{start}; the optimum is {format_lr(row['lr_optimum'])} {interval}, a factor of two costs {cost}{covers}."


def _line(row: Row, rows: Sequence[Row]) -> list[str]:
    return [
        _place(row, rows),
        str(row["method"]),
        format_lr(row["lr"]),
        format_lr(row["lr_optimum"]),
        NO_NUMBER if row["lr_optimum"] is None else _rates(row),
        signed(row["factor_two_cost"], DIGITS),
        NO_NUMBER if row["factor_two_cost"] is None else _costs(row),
        str(row["reason"] or ""),
    ]


def _rates(row: Row) -> str:
    """The interval of the optimum in brackets, or why it has no end."""
    if row["lr_optimum_lo"] is None:
        return f"[no interval: {row['reason']}]"
    return f"[{format_lr(row['lr_optimum_lo'])}, {format_lr(row['lr_optimum_hi'])}]"


def _costs(row: Row) -> str:
    return ends(row["factor_two_cost_lo"], row["factor_two_cost_hi"], DIGITS)


def _place(row: Row, rows: Sequence[Row]) -> str:
    budget = f", {row['budget']}" if len({other["budget"] for other in rows}) > 1 else ""
    return f"{text_name(row)}{coordinates(row, rows)}{budget}"


def _name(row: Row) -> str:
    label = str(row["method"])
    return method_name({"label": label, "method": label.split(" ")[0]})
