"""Section: forgetting of methods at matched learning, from their learning curves.

A method's curve has the points of all its learning rates and one seed: validation NLL of the text adapted to against
NLL of general text. It has several points if the recipe evaluates during training (`eval_at`) or tunes learning rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import altair as alt

from peftodyssey.display.chart_style import Figure, chart_of, colour_of_method, panels
from peftodyssey.display.result_text import (
    UNIT,
    Row,
    coordinates,
    ends,
    grouped,
    method_name,
    setting,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.stats.frontier import (
    LEVELS,
    Frontier,
    MatchedForgetting,
    compare_at_level,
    frontier,
)

MIN_POINTS = 2
MAX_METHODS_IN_PAIRS = 4  # of one text and base; more are compared with full fine-tuning only
HEADINGS = ("text", "methods", "learning", "first forgets", "second forgets", "difference")
CAPTION = (
    "Nats per token. Learning: fall of validation NLL from the unquantised base, at a level that every seed of both "
    "methods reaches."
)
FIGURE_CAPTION = (
    "Every point of every learning rate: learning on validation text against forgetting on general text. Lines: the "
    "least forgetting at each learning, one per seed. Methods are compared only as far as their lines reach. Points "
    "that learned nothing are left out."
)


@dataclass(frozen=True)
class MethodCurve:
    """One method on one text and base: its pairs (learning, forgetting) and their frontier, by seed."""

    row: Row  # one of its cells
    pairs: Mapping[int, Sequence[tuple[float, float]]]
    frontiers: Mapping[int, Frontier]

    @property
    def label(self) -> str:
        """The method without its learning rate."""
        return str(self.row["label"])


def method_curves(rows: Sequence[Row], curves: Sequence[Row]) -> list[MethodCurve]:
    """The methods whose curves have several points, in the order of the rows."""
    points_of_cell = grouped(curves, lambda point: (point.get("run"), point["cell"]))
    before = ("general_nll_before", "valid_nll_before")
    usable = [row for row in rows if row["status"] == "done" and all(row.get(column) is not None for column in before)]
    found = []
    for cells in grouped(usable, lambda row: (*setting(row), row["label"])).values():
        pairs: dict[int, list[tuple[float, float]]] = {}
        for row in cells:
            own = points_of_cell.get((row.get("run"), row["cell"]), ())
            pairs.setdefault(row["seed"], []).extend(_pairs_of_cell(row, own))
        if max(map(len, pairs.values())) >= MIN_POINTS:
            found.append(MethodCurve(cells[0], pairs, {seed: frontier(own) for seed, own in pairs.items()}))
    return found


def _pairs_of_cell(row: Row, points: Sequence[Row]) -> list[tuple[float, float]]:
    """(learning, forgetting) at each step of a cell; general texts are pooled by their tokens."""
    valid: dict[int, float] = {}
    general: dict[int, list[tuple[float, int]]] = {}
    for point in points:
        if point["tokens_seen"] <= 0:
            continue
        if point["corpus"] == row["domain"] and point["split"] == "valid":
            valid[point["step"]] = point["nll_nats"]
        elif point["corpus"] != row["domain"]:
            general.setdefault(point["step"], []).append((point["nll_nats"], point["tokens"]))
    return [
        (
            row["valid_nll_before"] - valid[step],
            sum(nll * n for nll, n in general[step]) / sum(n for _, n in general[step]) - row["general_nll_before"],
        )
        for step in sorted(set(valid) & set(general))
    ]


def section(rows: Sequence[Row], curves: Sequence[Row]) -> Section | None:
    """A sentence and rows of the table for each pair of methods of a text and base; None if there is no pair."""
    by_setting = grouped(method_curves(rows, curves), lambda curve: setting(curve.row)).values()
    pairs = [pair for methods in by_setting for pair in _pairs_to_compare(methods)]
    if not pairs:
        return None
    return Section(
        "matched_learning",
        "Which method forgets less at matched learning?",
        [_sentence(*pair, rows) for pair in pairs],
        figures(rows, curves),
        headings=HEADINGS,
        table=[line for pair in pairs for line in _table_rows(*pair, rows)],
        caption=CAPTION,
    )


def _pairs_to_compare(methods: Sequence[MethodCurve]) -> list[tuple[MethodCurve, MethodCurve]]:
    """Every pair of a few methods; of many, each with full fine-tuning, or with the one that learned most."""
    if len(methods) <= MAX_METHODS_IN_PAIRS:
        return list(combinations(methods, 2))
    reference = max(
        methods, key=lambda m: (m.row["method"] == "full", min(f.max_learning for f in m.frontiers.values()))
    )
    return [(method, reference) for method in methods if method is not reference]


def _matches(first: MethodCurve, second: MethodCurve) -> list[MatchedForgetting]:
    """The comparisons at each level that both reach."""
    levels = (compare_at_level(first.frontiers, second.frontiers, level) for level in LEVELS)
    return [match for match in levels if match is not None]


def _table_rows(first: MethodCurve, second: MethodCurve, rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            f"{text_name(first.row)}{coordinates(first.row, rows)}",
            f"{first.label} minus {second.label}",
            *(f"{value:.3f}" for value in (match.learning, match.first, match.second)),
            f"{signed(match.difference, 4)} {_interval(match)}",
        ]
        for match in _matches(first, second)
    ]


def _sentence(first: MethodCurve, second: MethodCurve, rows: Sequence[Row]) -> str:
    text = f"{text_name(first.row)}{coordinates(first.row, rows)}"
    name, other_name = method_name(first.row), method_name(second.row)
    matches = _matches(first, second)
    if not matches:
        return f"{text}: {name} and {other_name} have no learning in common, so they are not compared."
    last = matches[-1]
    return (
        f"{text}, where both have learned {last.learning:.3f} {UNIT} of validation text: {name} forgets "
        f"{abs(last.difference):.4f} {'more' if last.difference > 0 else 'less'} than {other_name} {_interval(last)}."
    )


def _interval(match: MatchedForgetting) -> str:
    if match.lower is not None:
        return ends(match.lower, match.upper, 4)
    if len(match.differences) == 1:
        return "(one seed; no interval)"
    differences = ", ".join(signed(value, 4) for value in match.differences)
    return f"({len(match.differences)} seeds: {differences}; no interval)"


def figures(rows: Sequence[Row], curves: Sequence[Row]) -> list[Figure]:
    """Forgetting against learning with frontiers, for texts and bases with several methods."""
    by_setting = grouped(method_curves(rows, curves), lambda curve: setting(curve.row)).values()
    compared = [curve for methods in by_setting if len(methods) > 1 for curve in methods]
    if not compared:
        return []
    return [Figure("matched_learning", "Forgetting at matched learning", FIGURE_CAPTION, _chart(compared))]


def _chart(methods: Sequence[MethodCurve]) -> alt.TopLevelMixin:
    def values(method: MethodCurve, seed: int, pairs: Any, line: bool) -> list[dict[str, Any]]:
        panel = text_name(method.row) + (f", {method.row['revision']}" if method.row.get("revision") else "")
        common = {"domain": panel, "label": method.label, "seed": seed, "line": line}
        return [{**common, "learning": float(x), "forgetting": float(y)} for x, y in pairs if x >= 0]

    lines = [
        value
        for method in methods
        for seed, front in method.frontiers.items()
        for value in values(method, seed, zip(front.learning, front.forgetting, strict=True), line=True)
    ]
    dots = [
        value
        for method in methods
        for seed, pairs in method.pairs.items()
        for value in values(method, seed, pairs, line=False)
    ]
    chart = chart_of([*lines, *dots])
    labels = list(dict.fromkeys(method.label for method in methods))
    axis = alt.Axis(tickCount=5, grid=True)
    shared = {
        "x": alt.X("learning:Q", title="learning: fall of validation NLL, nats per token", axis=axis),
        "y": alt.Y("forgetting:Q", title="forgetting: rise of general NLL, nats per token"),
        "color": colour_of_method([{"label": label} for label in labels]),
    }
    shape = alt.Shape("label:N", title="method", sort=labels, scale=alt.Scale(domain=labels))
    curve = chart.transform_filter("datum.line").mark_line(strokeWidth=2, opacity=0.8)
    marks = chart.transform_filter("!datum.line").mark_point(size=34, strokeWidth=1.4, opacity=0.9)
    layers = [
        curve.encode(**shared, detail="seed:N", order="learning:Q"),
        marks.encode(**shared, shape=shape),
    ]
    return panels(layers, [*lines, *dots], (270, 230), wide=True, independent="xy")
