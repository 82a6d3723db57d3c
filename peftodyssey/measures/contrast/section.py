"""Section: methods compared with each other, the first of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftodyssey.display.result_text import NO_NUMBER, Row, coordinates, ends, format_lr, grouped, signed, text_name
from peftodyssey.display.section import Section
from peftodyssey.measures.contrast import sentences
from peftodyssey.measures.contrast.table import DOMINANCE, EQUAL_LEARNING, OWN_RATE
from peftodyssey.stats.contrast import NOT_COMPARABLE

HEADINGS = ("text", "methods", "at", "quantity", "difference", "interval", "all pairs together", "verdict")
CAPTION = (
    "First method minus second, nats per token of test text (learning) and general text (forgetting). Intervals are "
    "95 % and cover clusters (files, papers, articles) and seeds, unless they are said to cover clusters only; those "
    "of all pairs together hold at once for every pair of methods on the text and base. Equal learning: forgetting at "
    "a quarter, a half and three quarters of the learning that both reach. A path is made of ends of whole trainings: "
    "those of each budget at its best learning rate, or, with one budget, those of its learning rates. Points of a "
    "learning curve inside a decay are no ends, and are not compared."
)
SIGNS = (
    "Learning is the fall of test NLL on the text adapted to, so more is better; forgetting is the rise on general "
    "text, so less is better. In the other sections a change is after minus before: negative is better."
)


def section(rows: Sequence[Row]) -> Section | None:
    """The answer, then a sentence for each pair of methods, and one for everything that has no verdict."""
    if not rows:
        return None
    main = _main(rows)
    named = [row for row in main if row["named"]]
    named = sorted(named, key=lambda row: row["compared_at"] != EQUAL_LEARNING)  # equal learning first
    comparable = [row for row in named if row["verdict"] != NOT_COMPARABLE]
    said = [
        *(sentences.sentence(row, _place(row, rows)) for row in comparable),
        *sentences.not_comparable([row for row in named if row["verdict"] == NOT_COMPARABLE], named, _places(rows)),
        *sentences.other_pairs([row for row in main if not row["named"]], _places(rows)),
        *sentences.dominance(
            [row for row in rows if row["compared_at"] == DOMINANCE],
            [row for row in main if row["compared_at"] == OWN_RATE],
            _places(rows),
        ),
    ]
    table = [_line(row, rows) for row in rows if row["named"] or row in main]
    title = "How do the methods compare with each other?"
    return Section("contrast", title, said, headings=HEADINGS, table=table, caption=f"{SIGNS} {CAPTION}")


def headlines(rows: Sequence[Row]) -> list[str]:
    """A sentence for each named pair and text that has a verdict at equal learning."""
    equal = [row for row in _main(rows) if row["named"] and row["compared_at"] == EQUAL_LEARNING]
    return [sentences.sentence(row, _place(row, rows)) for row in equal if row["verdict"] != NOT_COMPARABLE]


def _main(rows: Sequence[Row]) -> list[Row]:
    """The rows that are said in words: the mean over levels of learning, and own best rates at the largest budget."""
    of_pairs = grouped(
        (row for row in rows if row["compared_at"] == OWN_RATE),
        lambda row: (_place(row, rows), row["method"], row["minus"], row["quantity"]),
    )
    largest = {id(of_pair[-1]) for of_pair in of_pairs.values()}  # budgets ascend
    return [
        row for row in rows if id(row) in largest or (row["compared_at"] == EQUAL_LEARNING and row["level"] is None)
    ]


def _line(row: Row, rows: Iterable[Row]) -> list[str]:
    interval = NO_NUMBER if row["lo"] is None else ends(row["lo"], row["hi"], 4)
    interval += ", clusters only" if row["covers"] == "clusters" else ""
    together = row["simultaneous_lo"], row["simultaneous_hi"]
    return [
        _place(row, rows),
        f"{row['method']} minus {row['minus']}",
        _at(row),
        str(row["quantity"]),
        signed(row["estimate"], 4),
        interval,
        NO_NUMBER if together[0] is None else ends(*together, 4),
        str(row["verdict"]),
    ]


def _at(row: Row) -> str:
    """Where a row compares: level of learning, or learning rates and budgets."""
    at = str(row["compared_at"])
    if row["compared_at"] == EQUAL_LEARNING:
        return at + (", mean of levels" if row["level"] is None else f" of {row['level']:.3f}")
    cells = [
        format_lr(row[f"{one}_lr"]) + (f" at {row[f'{one}_budget']}" if row[f"{one}_budget"] else "")
        for one in ("method", "minus")
    ]
    return f"{at} ({', '.join(cells)})"


def _places(rows: Sequence[Row]) -> dict[int, str]:
    """Text and base of each row in words, by the row's `id`."""
    return {id(row): _place(row, rows) for row in rows}


def _place(row: Row, rows: Iterable[Row]) -> str:
    columns = ("model", "revision", "objective", "context", "score_tokens")
    return f"{text_name(row)}{coordinates(row, rows, columns)}"
