"""The differences between methods in words: amount, interval, what the interval covers, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.display.result_text import UNIT, Row, ends, format_lr, grouped, method_name, signed
from peftodyssey.measures.contrast.table import EQUAL_LEARNING, FORGETTING, LEARNING
from peftodyssey.stats.contrast import EQUAL, LESS, MORE, UNDECIDED

VERBS = {LEARNING: ("learns", "learn"), FORGETTING: ("forgets", "forget")}
DIGITS = 3
MAX_NAMED = 6  # other pairs that are named in a sentence; the table has all


def sentence(row: Row, place: str) -> str:
    """One difference that has a verdict."""
    first, second = _name(row["method"]), _name(row["minus"])
    verb, plural = VERBS[row["quantity"]]
    start, covers = f"{place}: {_where(row)}", f"95 %, over {row['covers']}"
    if row["verdict"] in (LESS, MORE):
        low, high = sorted((abs(row["lo"]), abs(row["hi"])))
        small = ", by less than the margin" if high < row["margin"] else ""
        amount = f"{abs(row['estimate']):.{DIGITS}f} {UNIT} {row['verdict']}"
        interval = f"[{low:.{DIGITS}f}, {high:.{DIGITS}f}; {covers}]"
        return f"{start} {first} {verb} {amount} than {second} {interval}{small}{_storage(row)}."
    if row["verdict"] == EQUAL:
        inside = f"{ends(row['equal_lo'], row['equal_hi'], DIGITS)[:-1]}; 90 %, over {row['covers']}]"
        within = f"equally much within {row['margin']:g} {UNIT}"
        difference = f"{signed(row['estimate'], DIGITS)} {inside}{_storage(row)}"
        return f"{start} {first} and {second} {plural} {within}: {difference}."
    assert row["verdict"] == UNDECIDED, row["verdict"]
    return (
        f"{start} it is undecided whether {first} {verb} less or more than {second}: {_undecided(row)}{_storage(row)}; "
        f"{row['decide']} would decide a difference of this size."
    )


def _where(row: Row) -> str:
    if row["compared_at"] == EQUAL_LEARNING:
        return f"at equal learning (paths over {row['path']})"
    return f"at their own best rates{f' and {budget}' if (budget := row['method_budget']) else ''}"


def _undecided(row: Row) -> str:
    interval = ends(row["lo"], row["hi"], DIGITS)[:-1]
    return f"{signed(row['estimate'], DIGITS)} {UNIT} {interval}; 95 %, over {row['covers']}]"


def _storage(row: Row) -> str:
    """How much of a difference is there before training, because a base is stored quantised."""
    if row["storage"] is None:
        return ""
    storage, training = row["storage"], row["estimate"] - row["storage"]
    return f"; of the difference {signed(storage, DIGITS)} is storage and {signed(training, DIGITS)} training"


def not_comparable(rows: Sequence[Row], every: Sequence[Row], places: Mapping[int, str]) -> list[str]:
    """One sentence for all differences without a verdict, each reason once, with the texts that it is true of."""
    if not rows:
        return []
    pairs = list(dict.fromkeys(f"{_name(row['method'])} and {_name(row['minus'])}" for row in rows))
    points = list(dict.fromkeys(_point(row) for row in rows))
    texts = list(dict.fromkeys(places[id(row)] for row in rows))
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for reason in str(row["reason"]).split("; "):
            reasons.setdefault(reason, []).append(places[id(row)])
    listed = [
        reason + ("" if set(where) == set(texts) else f" ({', '.join(dict.fromkeys(where))})")
        for reason, where in reasons.items()
    ]
    start = "No two methods can be compared yet" if len(rows) == len(every) else "Not comparable"
    what = f"{', '.join(pairs)}, {' and '.join(points)}, on {', '.join(texts)}"
    return [f"{start} ({what}): {'; '.join(listed)}. Their differences are in the table, without a verdict."]


def _point(row: Row) -> str:
    return "at equal learning" if row["compared_at"] == EQUAL_LEARNING else "at their own best rates"


def other_pairs(rows: Sequence[Row], places: Mapping[int, str]) -> list[str]:
    """One sentence for the pairs that the recipe does not name: those that are clear by the simultaneous interval."""
    with_verdict = [row for row in rows if row["verdict"] in (LESS, MORE, EQUAL, UNDECIDED)]
    if not with_verdict:
        return []
    clear = [row for row in with_verdict if row["verdict"] in (LESS, MORE)]
    named = "; ".join(_short(row, places[id(row)]) for row in clear[:MAX_NAMED])
    rest = f"; and {len(clear) - MAX_NAMED} more" if len(clear) > MAX_NAMED else ""
    found = f"{len(clear)} of {len(with_verdict)} are clear: {named}{rest}" if clear else "none is clear"
    return [
        f"Of the differences between pairs that the recipe does not name, {found} (intervals for all pairs together)."
    ]


def _short(row: Row, place: str) -> str:
    verb = VERBS[row["quantity"]][0]
    where = "at equal learning" if row["compared_at"] == EQUAL_LEARNING else "at own best rates"
    interval = ends(row["simultaneous_lo"], row["simultaneous_hi"], DIGITS)
    difference = f"{signed(row['estimate'], DIGITS)} {interval}"
    return f"{place}, {where} {_name(row['method'])} {verb} {row['verdict']} than {_name(row['minus'])} ({difference})"


def dominance(rows: Sequence[Row], main: Sequence[Row], places: Mapping[int, str]) -> list[str]:
    """Where a cell learned more and forgot less than the best of another method: one sentence a text and such methods.

    The best is the one at its method's own best rate, by the rows `main`; of other pairs of cells the table tells.
    """
    best = {
        (places[id(row)], row[one], row[f"{one}_budget"]): row[f"{one}_lr"]
        for row in main
        for one in ("method", "minus")
    }
    columns = ("method", "minus", "method_lr", "minus_lr", "method_budget", "minus_budget")
    cells = grouped(rows, lambda row: (places[id(row)], *(row[column] for column in columns)))
    found: dict[tuple[str, str, str], list[dict[str, Row]]] = {}
    for (place, *_), rows_of_pair in cells.items():
        both = {str(row["quantity"]): row for row in rows_of_pair}
        row, (better, worse) = both[LEARNING], _order(both[LEARNING])
        if row[f"{worse}_lr"] == best.get((place, row[worse], row[f"{worse}_budget"])):
            found.setdefault((place, row[better], row[worse]), []).append(both)
    return [_dominant(place, pairs) for (place, *_), pairs in found.items()]


def _order(learning: Row) -> tuple[str, str]:
    """Which side of a pair learned more, and which one less."""
    return ("method", "minus") if learning["verdict"] == MORE else ("minus", "method")


def _dominant(place: str, pairs: Sequence[Mapping[str, Row]]) -> str:
    """The pair with the largest difference of learning."""
    both = max(pairs, key=lambda both: abs(both[LEARNING]["estimate"]))
    learned, forgot = (abs(both[quantity]["estimate"]) for quantity in (LEARNING, FORGETTING))
    better, worse = (_cell(both[LEARNING], one) for one in _order(both[LEARNING]))
    return (
        f"{place}: {better} learned {learned:.{DIGITS}f} {UNIT} more and forgot {forgot:.{DIGITS}f} less than {worse}, "
        f"its own best rate; both differences are clear over {both[LEARNING]['covers']} after correction for all pairs "
        "of cells."
    )


def _cell(row: Row, one: str) -> str:
    budget = f" and {row[f'{one}_budget']}" if row[f"{one}_budget"] else ""
    return f"{_name(row[one])} at {format_lr(row[f'{one}_lr'])}{budget}"


def _name(label: Any) -> str:
    """The method in words within a sentence."""
    name = method_name({"label": label, "method": str(label).split(" ")[0]})
    return "full fine-tuning" + str(label)[len("full") :] if name.startswith("Full fine-tuning") else name
