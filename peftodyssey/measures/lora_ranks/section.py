"""Section: which rank is enough, by families of LoRA cells that differ in rank only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from peftodyssey.display.chart_style import Figure, chart_of, colour_by, panels
from peftodyssey.display.rank_labels import alpha_rules, label_without_rank
from peftodyssey.display.result_text import (
    UNIT,
    Row,
    coordinates,
    grouped,
    is_tuned,
    method_name,
    rate_to_add,
    selected_cells,
    setting,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.measures.lora_ranks.compute import RankTrend, Trial, rank_trend

MIN_RANKS = 3  # for a statement
CAPTION = (
    "against the rank at the selected learning rate; points are seeds, lines their mean; hollow: the learning rate "
    "is the edge of its grid."
)


@dataclass(frozen=True)
class Family:
    """Cells that differ in rank, seed and learning rate only, at their selected learning rates."""

    rows: Sequence[Row]
    alpha: str  # the rule 2r, or a number
    trend: RankTrend

    @property
    def name(self) -> str:
        """Method, its other options and the alpha rule in words."""
        return f"{method_name({**self.rows[0], 'label': label_without_rank(self.rows[0])})}, alpha {self.alpha}"


def families(rows: Sequence[Row]) -> list[Family]:
    """The families with at least MIN_RANKS ranks."""
    adapters = [row for row in selected_cells(rows) if row.get("rank") and row["method"] in ("lora", "qlora")]
    by_family = grouped(
        [(row, rule) for row in adapters for rule in alpha_rules(row)],
        lambda pair: (*setting(pair[0]), _options(pair[0]), pair[1]),
    )
    found = []
    for key, pairs in by_family.items():
        cells = [row for row, _ in pairs]
        if len({row["rank"] for row in cells}) >= MIN_RANKS:
            trials = [Trial(row["rank"], row["seed"], row["delta_nll"], not row.get("lr_edge")) for row in cells]
            found.append(Family(cells, str(key[-1]), rank_trend(trials)))
    return found


def _options(row: Row) -> tuple[str, ...]:
    return str(row["method"]), label_without_rank(row), str(row.get("quant")), str(row.get("targets"))


def section(rows: Sequence[Row]) -> Section | None:
    """One sentence per family, and one about learning rates at the edge of their grid; None without a family."""
    found = families(rows)
    said = [text for family in found for text in _sentences(family, rows)]
    return Section("ranks", "Which rank is enough?", said, figures(rows)) if said else None


def _sentences(family: Family, rows: Sequence[Row]) -> list[str]:
    first = family.rows[0]
    start = f"{text_name(first)}{coordinates(first, rows)}, {family.name}"
    tuned = {row["rank"]: is_tuned(row, rows) for row in family.rows}
    untuned = ", ".join(str(rank) for rank in sorted(tuned) if not tuned[rank])
    at_one_rate = f" Rank {untuned} was trained at one learning rate only, which may not be its best."
    mixed = len(set(tuned.values())) > 1
    said = [f"{start}: {_trend(family.trend)}.{at_one_rate if mixed else ''} {_effective_ranks(family)}"]
    edges = [row for row in family.rows if row.get("lr_edge")]
    if edges:
        ranks = ", ".join(map(str, sorted({row["rank"] for row in edges})))
        rates = ", ".join(sorted({rate_to_add(row) for row in edges}))
        said.append(
            f"{start}: not resolved at rank {ranks}, where the best learning rate is the last one tried; add {rates}."
        )
    return said


def _trend(trend: RankTrend) -> str:
    if trend.best is None:
        return "no rank can be compared, because every best learning rate is the edge of its grid"
    best = f"rank {trend.best} changes test NLL most ({signed(trend.means[trend.best])} {UNIT})"
    if trend.smallest_within_noise is None:
        return f"{best}; with one seed the noise between seeds is unknown"
    noise = f"the noise between seeds ({trend.noise.std:.4f})"
    if trend.smallest_within_noise == trend.best:
        return f"{best}; no smaller rank is within {noise}"
    return f"{best}; rank {trend.smallest_within_noise} is the smallest within {noise} of it"


def _effective_ranks(family: Family) -> str:
    """The effective rank of updates by rank, where it was measured."""
    measured = [row for row in family.rows if row.get("effective_rank_mean") is not None]
    if not measured:
        return "Effective rank: not measured."
    by_rank = grouped(measured, lambda row: row["rank"])
    values = (
        f"{statistics.fmean(row['effective_rank_mean'] for row in by_rank[rank]):.1f} of {rank}"
        if rank in by_rank
        else f"not measured of {rank}"
        for rank in family.trend.means
    )
    return f"Effective rank, mean over matrices: {', '.join(values)}."


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Change on test, and forgetting where it was measured, against the rank."""
    found = families(rows)
    if not found:
        return []
    chart = _by_rank(found, rows, "delta_nll", "change of test NLL")
    drawn = [Figure("rank", "Rank", f"Change on test {CAPTION}", chart)]
    if all(row.get("forgetting") is not None for family in found for row in family.rows):
        chart = _by_rank(found, rows, "forgetting", "change of NLL on general text")
        drawn.append(Figure("rank_forgetting", "Rank and forgetting", f"Change on general text {CAPTION}", chart))
    return drawn


def _by_rank(found: Sequence[Family], rows: Sequence[Row], column: str, title: str) -> alt.TopLevelMixin:
    values = [
        {
            "domain": f"{text_name(row)}{coordinates(row, rows)}",
            "family": family.name,
            "rank": row["rank"],
            "value": row[column],
            "resolved": not row.get("lr_edge"),
        }
        for family in found
        for row in family.rows
    ]
    chart = chart_of(values)
    axis = alt.Axis(values=sorted({value["rank"] for value in values}), grid=False)
    x = alt.X("rank:Q", title="rank", scale=alt.Scale(type="log", base=2), axis=axis)
    lines, scale = [title, "nats per token (negative: better)"], alt.Scale(zero=False)
    y, mean = (alt.Y(shown, title=lines, scale=scale) for shown in ("value:Q", "mean(value):Q"))
    colour = colour_by("family", (value["family"] for value in values), "method", orient="bottom", columns=2)
    fill = alt.condition("datum.resolved", colour, alt.value("white"))
    dots = chart.mark_point(size=60, strokeWidth=1.6, opacity=1).encode(x=x, y=y, color=colour, fill=fill)
    layers = [chart.mark_line(strokeWidth=2).encode(x=x, y=mean, color=colour), dots]
    return panels(layers, values, (360, 240), independent="y")
