"""Section: which rank is enough, by families of LoRA cells that differ in rank only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import altair as alt

from peftodyssey.display.chart_style import Figure, chart_of, colour_by, panels
from peftodyssey.display.counts import format_bytes
from peftodyssey.display.result_text import (
    NO_NUMBER,
    UNIT,
    Row,
    coordinates,
    ends,
    grouped,
    is_tuned,
    rate_to_add,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.lora_ranks.families import Family, families
from peftodyssey.measures.lora_ranks.table import COORDINATES, ENOUGH, NOT_COMPARABLE, TABLE, WORSE

HEADINGS = (
    "text",
    "method",
    "rank",
    "change on validation",
    "change on test",
    "loss to the best",
    "bounds",
    "verdict",
    "tokens/s alone",
    "memory alone",
    "tokens/s in the run",
)
TABLE_CAPTION = (
    "Change of NLL, nats per token, mean over seeds. Ranks are compared on validation: the bounds of the loss to the "
    "best of the other ranks hold for all ranks together with 95 %, over seeds, given these texts. Alone: the median "
    "of five steps of this rank by itself. In the run: cells that were trained together share the work on the base."
)
CAPTION = (
    "against the rank at the selected learning rate; points are seeds, lines their mean; hollow: the learning rate "
    "is the edge of its grid."
)


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources.rows, sources.table(TABLE))]


def section(rows: Sequence[Row], ranks: Sequence[Row]) -> Section | None:
    """One sentence per family, and one about learning rates at the edge of their grid; None without a family.

    `ranks` are rows of `ranks.parquet`.
    """
    found = families(rows)
    said = [text for family in found for text in _sentences(family, rows, ranks)]
    if not said:
        return None
    table = [_line(row, ranks) for row in ranks]
    title = "Which rank is enough?"
    return Section("ranks", title, said, figures(rows), headings=HEADINGS, table=table, caption=TABLE_CAPTION)


def _sentences(family: Family, rows: Sequence[Row], ranks: Sequence[Row]) -> list[str]:
    first = family.rows[0]
    start = f"{text_name(first)}{coordinates(first, rows)}, {family.name}"
    tuned = {row["rank"]: is_tuned(row, rows) for row in family.rows}
    untuned = ", ".join(str(rank) for rank in sorted(tuned) if not tuned[rank])
    at_one_rate = f" Rank {untuned} was trained at one learning rate only, which may not be its best."
    mixed = len(set(tuned.values())) > 1
    own = _of_family(family, ranks)
    said = [f"{start}: {_verdict(own)}.{at_one_rate if mixed else ''} {_effective_ranks(family)}"]
    edges = [row for row in family.rows if row.get("lr_edge")]
    if edges:
        at_edge = ", ".join(map(str, sorted({row["rank"] for row in edges})))
        rates = ", ".join(sorted({rate_to_add(row) for row in edges}))
        said.append(
            f"{start}: not resolved at rank {at_edge}, where the best learning rate is the last one tried; add {rates}."
        )
    return said


def _of_family(family: Family, ranks: Sequence[Row]) -> list[Row]:
    first = family.rows[0]
    names = ("run", *(name for name in COORDINATES if name != "rank"))
    return [
        row
        for row in ranks
        if (row["family"], row["alpha_rule"]) == (family.label, family.alpha)
        and all(row.get(name) == first.get(name) for name in names)
    ]


def _verdict(ranks: Sequence[Row]) -> str:
    """Which rank is enough, by the bounds of all compared ones."""
    compared = [row for row in ranks if row["verdict"] != NOT_COMPARABLE]
    if not compared:
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in ranks))
        return f"no statement which rank is enough, because ranks are not comparable ({reasons})"
    best = min(compared, key=lambda row: (row["loss_to_best"], row["rank"]))
    on_test = f"on test it changes NLL by {signed(best['test_change'])} {UNIT}"
    start = f"on validation rank {best['rank']} is the best ({on_test})"
    margin = f"{best['margin']:g} {UNIT}"
    enough = [row for row in compared if row["verdict"] == ENOUGH]
    if not enough:
        return f"{start}; of no rank is it clear that it is within {margin} of the best: more seeds would tell"
    smallest = min(enough, key=lambda row: row["rank"])
    worse = ", ".join(str(row["rank"]) for row in compared if row["verdict"] == WORSE)
    clear = f"; rank {worse} is clearly worse than the best" if worse else ""
    return (
        f"{start}; rank {smallest['rank']} is the smallest that is enough: it loses at most {smallest['loss_hi']:.4f} "
        f"{UNIT} to the best, within the margin of {margin} (95 % for all ranks together, over {best['seeds']} "
        f"seeds; on test it changes NLL by {signed(smallest['test_change'])}){clear}"
    )


def _line(row: Row, ranks: Sequence[Row]) -> list[str]:
    known = row["loss_to_best"] is not None
    return [
        f"{text_name(row)}{coordinates(row, ranks)}",
        f"{row['family']}, alpha {row['alpha_rule']}",
        str(row["rank"]),
        signed(row["valid_change"], 4),
        signed(row["test_change"], 4),
        signed(row["loss_to_best"], 4) if known else NO_NUMBER,
        ends(row["loss_lo"], row["loss_hi"], 4) if known else NO_NUMBER,
        str(row["verdict"]) + (f" ({row['reason']})" if row["reason"] else ""),
        *_cost(row),
    ]


def _cost(row: Row) -> tuple[str, str, str]:
    """Speed and memory of the rank alone, and its cells' share of the speed of the run."""
    alone, memory, shared = (
        row.get(name) for name in ("solo_tokens_per_second", "solo_memory_bytes", "shared_tokens_per_second")
    )
    return (
        NO_NUMBER if alone is None else f"{alone:,.0f}",
        NO_NUMBER if memory is None else format_bytes(memory),
        NO_NUMBER if shared is None else f"{shared:,.0f}",
    )


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
        for rank in family.ranks
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
