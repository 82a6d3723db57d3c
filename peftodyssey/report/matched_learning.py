"""Forgetting of methods where they have learned equally much: sentences and a figure from learning curves.

A path is every point of every learning rate of one method and seed: validation NLL of the text adapted to against NLL
of general text. Shown where the recipe scores on the way (`eval_at`) or tunes learning rates, so that a path has
several points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import Figure, by_domain, colour_of_method, styled
from peftodyssey.report.section import Section
from peftodyssey.stats.frontier import LEVELS, Frontier, MatchedForgetting, compare_at_level, frontier

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
FEWEST_POINTS = 2  # of a path; one point has no frontier of its own
MOST_IN_PAIRS = 4  # paths of one text and base that are all compared with each other
SECTION = "matched"
HEADINGS = ("text", "methods", "learning", "first forgets", "second forgets", "difference")
CAPTION = (
    "Nats per token. Learning: fall of validation NLL from the unquantised base, at a level that every seed "
    "of both methods reaches."
)


@dataclass(frozen=True)
class Path:
    """One method on one text and base: its pairs (learning, forgetting) and their frontier, by seed."""

    row: Row  # one of its cells
    pairs: Mapping[int, Sequence[tuple[float, float]]]
    frontiers: Mapping[int, Frontier]

    @property
    def label(self) -> str:
        """The method without its learning rate."""
        return str(self.row["label"])


def paths(rows: Sequence[Row], points: Sequence[Row]) -> list[Path]:
    """The paths of methods that have several points, in the order of the rows."""
    of_cell: dict[tuple[Any, ...], list[Row]] = {}
    for point in points:
        of_cell.setdefault((point.get("run"), point["cell"]), []).append(point)
    pairs: dict[tuple[Any, ...], dict[int, list[tuple[float, float]]]] = {}
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if (
            row["status"] == "done"
            and row.get("general_nll_before") is not None
            and row.get("valid_nll_before") is not None
        ):
            key = (*result_text.setting(row), row["label"])
            first.setdefault(key, row)
            pairs.setdefault(key, {}).setdefault(row["seed"], []).extend(
                _pairs(row, of_cell.get((row.get("run"), row["cell"]), ()))
            )
    return [
        Path(first[key], own, {seed: frontier(path) for seed, path in own.items()})
        for key, own in pairs.items()
        if max(map(len, own.values())) >= FEWEST_POINTS
    ]


def _pairs(row: Row, points: Sequence[Row]) -> list[tuple[float, float]]:
    """(learning, forgetting) at each point of a cell; general texts pooled by their tokens."""
    learned: dict[int, float] = {}  # NLL on validation by step
    general: dict[int, list[tuple[float, int]]] = {}
    for point in points:
        if point["tokens_seen"] <= 0:
            continue
        if point["corpus"] == row["domain"] and point["split"] == "valid":
            learned[point["step"]] = point["nll_nats"]
        elif point["corpus"] != row["domain"]:
            general.setdefault(point["step"], []).append((point["nll_nats"], point["tokens"]))
    return [
        (
            row["valid_nll_before"] - learned[step],
            sum(nll * n for nll, n in general[step]) / sum(n for _, n in general[step]) - row["general_nll_before"],
        )
        for step in sorted(set(learned) & set(general))
    ]


def section(rows: Sequence[Row], points: Sequence[Row]) -> Section | None:
    """A sentence and a line of the table for each pair of methods of a text and base; None where there is no pair of
    paths.
    """
    found = paths(rows, points)
    settings = dict.fromkeys(result_text.setting(path.row) for path in found)
    pairs = [
        pair
        for setting in settings
        for pair in _pairs_of([path for path in found if result_text.setting(path.row) == setting])
    ]
    if not pairs:
        return None
    lines = [line for one, other in pairs for line in _lines(one, other, rows)]
    return Section(SECTION, "At equal learning", [_said(*pair, rows) for pair in pairs], HEADINGS, lines, CAPTION)


def _pairs_of(found: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every pair of a few paths; of many, each beside full fine-tuning, or beside the one that learnt most."""
    if len(found) <= MOST_IN_PAIRS:
        return list(combinations(found, 2))
    most = max(
        found, key=lambda path: (path.row["method"] == "full", min(of.max_learning for of in path.frontiers.values()))
    )
    return [(path, most) for path in found if path is not most]


def _lines(one: Path, other: Path, rows: Sequence[Row]) -> list[list[str]]:
    """The pair at every level that both reach."""
    text = f"{result_text.text_name(one.row)}{result_text.where(one.row, rows)}"
    levels = (compare_at_level(one.frontiers, other.frontiers, level) for level in LEVELS)
    return [
        [
            text,
            f"{one.label} minus {other.label}",
            *(f"{value:.3f}" for value in (at.learning, at.first, at.second)),
            f"{result_text.signed(at.difference, 4)} {_sure(at)}",
        ]
        for at in levels
        if at is not None
    ]


def _said(one: Path, other: Path, rows: Sequence[Row]) -> str:
    where = f"{result_text.text_name(one.row)}{result_text.where(one.row, rows)}"
    found = [compare_at_level(one.frontiers, other.frontiers, level) for level in LEVELS]
    last = next((each for each in reversed(found) if each is not None), None)
    first, second = result_text.method_name(one.row), result_text.method_name(other.row)
    if last is None:
        return f"{where}: {first} and {second} share no level of learning, so nothing is compared."
    more = "more" if last.difference > 0 else "less"
    level = f"{where}, where both have learnt {last.learning:.3f} {result_text.UNIT} of validation text"
    return f"{level}: {first} forgets {abs(last.difference):.4f} {more} than {second} {_sure(last)}."


def _sure(found: MatchedForgetting) -> str:
    if found.lower is not None and found.upper is not None:
        return f"[{result_text.signed(found.lower, 4)}, {result_text.signed(found.upper, 4)}]"
    values = ", ".join(result_text.signed(value, 4) for value in found.differences)
    return (
        f"({'one seed' if len(found.differences) == 1 else f'{len(found.differences)} seeds: {values}'}; no interval)"
    )


def figures(rows: Sequence[Row], points: Sequence[Row]) -> list[Figure]:
    """Forgetting against learning along the paths, their frontiers as lines."""
    found = paths(rows, points)
    settings = Counter(result_text.setting(path.row) for path in found)
    found = [path for path in found if settings[result_text.setting(path.row)] > 1]
    if not found:
        return []
    caption = (
        "Every point of every learning rate: learning on validation text against forgetting on general text. "
        "Lines: the least "
        "forgetting at each learning, one a seed. Methods are compared where their lines reach, and nowhere "
        "beyond. Points that learnt "
        "nothing are left out."
    )
    return [Figure("equal_learning", "Forgetting at equal learning", caption, _chart(found), SECTION)]


def _chart(found: Sequence[Path]) -> alt.TopLevelMixin:
    import altair as alt

    def told(path: Path, seed: int) -> dict[str, Any]:
        text = result_text.text_name(path.row) + (f", {path.row['revision']}" if path.row.get("revision") else "")
        return {"domain": text, "label": path.label, "seed": seed}

    dots = [
        {**told(path, seed), "learning": x, "forgetting": y, "line": False}
        for path in found
        for seed, pairs in path.pairs.items()
        for x, y in pairs
        if x >= 0
    ]
    lines = [
        {**told(path, seed), "learning": float(x), "forgetting": float(y), "line": True}
        for path in found
        for seed, of in path.frontiers.items()
        for x, y in zip(of.learning, of.forgetting, strict=True)
    ]
    source = alt.Chart(alt.Data(values=[*lines, *dots]))
    across = alt.X(
        "learning:Q", title="learning: fall of validation NLL, nats per token", axis=alt.Axis(tickCount=5, grid=True)
    )
    up = alt.Y("forgetting:Q", title="forgetting: rise of general NLL, nats per token")
    labels = list(dict.fromkeys(path.label for path in found))
    colour = colour_of_method([{"label": label} for label in labels])
    form = alt.Shape("label:N", title="method", sort=labels, scale=alt.Scale(domain=labels))
    drawn = source.transform_filter("datum.line").mark_line(strokeWidth=2, opacity=0.8)
    drawn = drawn.encode(x=across, y=up, color=colour, detail="seed:N", order="learning:Q")
    marks = source.transform_filter("!datum.line").mark_point(size=34, strokeWidth=1.4, opacity=0.9)
    marks = marks.encode(x=across, y=up, color=colour, shape=form)
    layers = alt.layer(drawn, marks, data=source.data).properties(width=270, height=230)
    return styled(by_domain(layers, [*lines, *dots], wide=True).resolve_scale(x="independent", y="independent"))
