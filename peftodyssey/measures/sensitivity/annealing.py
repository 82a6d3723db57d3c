"""Section: cost of a change in two arms of a ladder at the same number of pretraining tokens.

An annealed rung is a constant-rate one whose learning rate was decayed to 0, so the difference is the effect of the
decay.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftodyssey.display.ladder_text import format_tokens
from peftodyssey.display.result_text import UNIT, Row, columns_of, grouped, interval
from peftodyssey.display.section import Section

TITLE = "Does the arm of the ladder matter at the same number of pretraining tokens?"
HEADINGS = ("text", "cost", "pretraining", "arms", "difference in cost", "verdict")
CAPTION = (
    "Nats per token with 95 % intervals over clusters of documents and repetitions (noise pairs, seeds), given these "
    "bases; below three repetitions over clusters only."
)
CHANGE = ("change", "lo", "hi")
LINE = ("run", "recipe", "model", "arm", "minus", "corpus", "domain", "quantity", "intervention", "gamma")


def section(differences: Sequence[Row]) -> Section | None:
    """A sentence for the largest Gaussian noise and for forgetting by method, and a table; None without two arms."""
    lines = [
        sorted(line, key=lambda row: row["pretrain_tokens"])
        for line in grouped(differences, columns_of(*LINE)).values()
    ]
    said = [_sentence(line) for line in lines if _has_sentence(line[0], differences)]
    if not said:
        return None
    table = [
        [
            str(row["corpus"]),
            _cost(row),
            format_tokens(row["pretrain_tokens"]),
            f"{row['arm']} minus {row['minus']}",
            interval(row, CHANGE, 4),
            str(row["verdict"]),
        ]
        for line in lines
        for row in line
    ]
    return Section("arms", TITLE, said, headings=HEADINGS, table=table, caption=CAPTION)


def _has_sentence(row: Row, differences: Sequence[Row]) -> bool:
    """The other lines are in the table only."""
    if row["quantity"] != "noise":
        return bool(row["quantity"] == "forgetting")
    gammas = [other["gamma"] for other in differences if other["quantity"] == "noise" and other["gamma"] is not None]
    return bool(row["intervention"] == "gaussian" and row["gamma"] == max(gammas))


def _cost(row: Row) -> str:
    if row["quantity"] == "noise":
        return f"noise, {row['intervention']}" + (f" with gamma {row['gamma']:g}" if row["gamma"] is not None else "")
    if row["quantity"] == "forgetting":
        return f"forgetting, {row['intervention']} on {row['domain']}"
    return f"the change on the text adapted to, {row['intervention']}"


def _sentence(line: Sequence[Row]) -> str:
    first = line[0]
    changes = ", ".join(f"{interval(row, CHANGE, 4)} {UNIT} at {format_tokens(row['pretrain_tokens'])}" for row in line)
    text, verb = (
        (first["corpus"], f"{_cost(first)} costs")
        if first["quantity"] == "noise"
        else (first["domain"], f"{first['intervention']} forgets")
    )
    verdicts = ", ".join(f"{row['verdict']} at {format_tokens(row['pretrain_tokens'])}" for row in line)
    reasons = "; ".join(dict.fromkeys(row["reason"] for row in line if row["reason"]))
    return (
        f"{text}, {first['arm']} minus {first['minus']}: {verb} {changes}. Verdict on {first['arm']}: {verdicts}"
        f"{f' ({reasons})' if reasons else ''}."
    )
