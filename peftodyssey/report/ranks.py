"""Results by LoRA rank: a sentence per family of cells, and figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import COLOURS, Figure, by_domain, styled
from peftodyssey.report.section import Section
from peftodyssey.stats.lora_ranks import RankTrend, Trial, rank_trend

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
FEWEST_RANKS = 3
SECTION = "ranks"


@dataclass(frozen=True)
class Family:
    """Cells that differ in rank, seed and learning rate alone, at the selected learning rates."""

    rows: Sequence[Row]
    alpha: str  # 2r, or the number
    trend: RankTrend

    @property
    def name(self) -> str:
        """Method, its further options and the alpha rule in words."""
        return f"{result_text.method_name({**self.rows[0], 'label': kind(self.rows[0])})}, alpha {self.alpha}"


def families(rows: Sequence[Row]) -> list[Family]:
    """The families with enough ranks to speak of a trend."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in result_text.selected_cells(rows):
        if row.get("rank") and row["method"] in ("lora", "qlora"):
            for rule in alpha_rules(row):
                found.setdefault(
                    (
                        *result_text.setting(row),
                        row["method"],
                        kind(row),
                        row.get("quant"),
                        str(row.get("targets")),
                        rule,
                    ),
                    [],
                ).append(row)
    made = []
    for key, own in found.items():
        if len({row["rank"] for row in own}) >= FEWEST_RANKS:
            trials = [Trial(row["rank"], row["seed"], row["delta_nll"], not row.get("lr_edge")) for row in own]
            made.append(Family(own, key[-1], rank_trend(trials)))
    return made


def kind(row: Row) -> str:
    """The label without rank and alpha: what the cells of a family share, `lora dora` apart from `lora`."""
    return " ".join(word for word in str(row["label"]).split(" ") if not word.startswith(("r=", "alpha=")))


def alpha_rules(row: Row) -> list[str]:
    """The rules that give this alpha at this rank: 2r and the number, or the number alone."""
    number = f"{row['alpha']:g}"
    return ["2r", number] if row["alpha"] == 2 * row["rank"] else [number]


def section(rows: Sequence[Row]) -> Section | None:
    """A sentence per family, and one about unresolved learning rates; None where no family has enough ranks."""
    said = [text for family in families(rows) for text in _said(family, rows)]
    return Section(SECTION, "Which rank", said) if said else None


def _said(family: Family, rows: Sequence[Row]) -> list[str]:
    trend, first = family.trend, family.rows[0]
    where = f"{result_text.text_name(first)}{result_text.where(first, rows)}, {family.name}"
    edges = sorted({row["rank"] for row in family.rows if row.get("lr_edge")})
    said = []
    if trend.best is None:
        said.append(f"{where}: no rank can be compared, every best learning rate lies at the edge of those tried.")
    elif trend.smallest_within_noise is None:
        seen = f"{result_text.signed(trend.means[trend.best])} {result_text.UNIT}"
        said.append(
            f"{where}: rank {trend.best} changes test most ({seen}); with one seed there is no noise floor to "
            f"compare it with."
        )
    else:
        best = f"rank {trend.best} changes test most ({result_text.signed(trend.means[trend.best])} {result_text.UNIT})"
        noise = f"the noise between seeds ({trend.noise.std:.4f})"
        enough = (
            f"no smaller rank comes within {noise}"
            if trend.smallest_within_noise == trend.best
            else f"rank {trend.smallest_within_noise} is the smallest within {noise} of it"
        )
        said.append(f"{where}: {best}; {enough}.")
    tuned = {row["rank"]: result_text.is_tuned(row, rows) for row in family.rows}
    if len(set(tuned.values())) > 1:
        one = ", ".join(str(rank) for rank in sorted(tuned) if not tuned[rank])
        said[-1] += f" Tried at one learning rate, so perhaps at less than its best: rank {one}."
    said[-1] += f" {_used(family)}"
    if edges:
        add = sorted(
            {
                result_text.format_lr(result_text.next_lr(row["lr"], row["lr_edge"]))
                for row in family.rows
                if row.get("lr_edge")
            }
        )
        ranks = ", ".join(map(str, edges))
        said.append(
            f"{where}: not resolved at rank {ranks}, where the best learning rate is the last one tried; add "
            f"{', '.join(add)}."
        )
    return said


def _used(family: Family) -> str:
    """How much of each rank the updates use, where it was measured."""
    used = {
        rank: [
            row["effective_rank_mean"]
            for row in family.rows
            if row["rank"] == rank and row.get("effective_rank_mean") is not None
        ]
        for rank in family.trend.means
    }
    if not any(used.values()):
        return "Effective rank used: not measured."
    told = (
        f"{statistics.fmean(values):.1f} of {rank}" if values else f"not measured of {rank}"
        for rank, values in used.items()
    )
    return f"Effective rank used, mean over matrices: {', '.join(told)}."


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Change on test, and forgetting where it was measured, against the rank."""
    found = families(rows)
    if not found:
        return []
    caption = (
        "against the rank at the selected learning rate; points are seeds, lines their mean; hollow: "
        "learning rate not resolved."
    )
    made = [
        Figure(
            "rank",
            "Rank",
            f"Change on test {caption}",
            _against_rank(found, rows, "delta_nll", "change of test NLL"),
            SECTION,
        )
    ]
    if all(row.get("forgetting") is not None for family in found for row in family.rows):
        chart = _against_rank(found, rows, "forgetting", "change of NLL on general text")
        made.append(
            Figure("rank_forgetting", "Rank and forgetting", f"Change on general text {caption}", chart, SECTION)
        )
    return made


def _against_rank(found: Sequence[Family], rows: Sequence[Row], column: str, title: str) -> alt.TopLevelMixin:
    import altair as alt

    values = [
        {
            "domain": f"{result_text.text_name(row)}{result_text.where(row, rows)}",
            "family": family.name,
            "rank": row["rank"],
            "value": row[column],
            "resolved": not row.get("lr_edge"),
        }
        for family in found
        for row in family.rows
    ]
    names = list(dict.fromkeys(value["family"] for value in values))
    ranks = sorted({value["rank"] for value in values})
    source = alt.Chart(alt.Data(values=values))
    across = alt.X("rank:Q", title="rank", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ranks, grid=False))
    colour = alt.Color(
        "family:N",
        title="method",
        scale=alt.Scale(domain=names, range=list(COLOURS[: len(names)])),
        legend=alt.Legend(orient="bottom", columns=2),
    )
    lines, scale = [title, "nats per token (negative: better)"], alt.Scale(zero=False)
    up, middle = (alt.Y(what, title=lines, scale=scale) for what in ("value:Q", "mean(value):Q"))
    means = source.mark_line(strokeWidth=2).encode(x=across, y=middle, color=colour)
    dots = source.mark_point(size=60, strokeWidth=1.6, opacity=1).encode(
        x=across, y=up, color=colour, fill=alt.condition("datum.resolved", colour, alt.value("white"))
    )
    rows = [{"domain": value["domain"]} for value in values]
    return styled(
        by_domain(alt.layer(means, dots, data=source.data).properties(width=360, height=240), rows).resolve_scale(
            y="independent"
        )
    )
