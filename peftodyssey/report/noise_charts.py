"""Figures of weight noise: by rung, before and after, and shifts of one norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.chart_style import COLOURS, GREY, INK, Figure, by_domain, by_pretraining, styled
from peftodyssey.report.noise import SECTION, base, who

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]


def figures(noise: Sequence[Row]) -> list[Figure]:
    """Rise by rung, base and shifted loss by rung, and shifts of one norm compared; those that there is something
    to show in.
    """
    made = []
    ladder = [row for row in noise if row["kind"] == "gaussian" and row["pretrain_tokens"]]
    if len({row["pretrain_tokens"] for row in ladder}) > 1:
        made.append(
            Figure(
                "noise_by_rung",
                "What noise costs, by length of pretraining",
                "Rise of NLL under Gaussian noise of the weights against pretraining "
                "tokens, by size of the noise; bars are 95 % intervals over pairs and documents.",
                _by_rung(ladder, "rise_nats", "lo", "hi"),
                SECTION,
            )
        )
        made.append(
            Figure(
                "noise_loss",
                "Loss with and without noise",
                "NLL of the base and of the base under noise against pretraining tokens; where the upper "
                "lines turn up, longer pretraining makes the shifted model worse.",
                _by_rung(_with_base(ladder), "nll_perturbed", "low", "high"),
                SECTION,
            )
        )
    compared = [
        row for row in noise if row["kind"] in ("gaussian", "low_rank", "update") and row["rise_nats"] is not None
    ]
    if any(row["kind"] != "gaussian" for row in compared):
        made.append(
            Figure(
                "noise_rank",
                "Full rank, low rank and real updates at one norm",
                "Rise of NLL of the most pretrained rung against the Frobenius norm of "
                "the shift, by its kind; at one norm only the direction differs.",
                _by_norm(compared),
                SECTION,
            )
        )
    return made


def _panel(row: Row) -> str:
    name = " · ".join(str(part) for part in (row["corpus"], row["arm"]) if part)
    return f"{row['run']}: {name}" if row.get("run") else name


def _with_base(ladder: Sequence[Row]) -> list[Row]:
    """The rows, and the unshifted base as gamma 0, with the ends of the intervals of the loss."""
    bases = {
        (_panel(r), r["pretrain_tokens"]): {
            **r,
            "gamma": 0.0,
            "nll_perturbed": r["nll_base"],
            "low": None,
            "high": None,
        }
        for r in ladder
    }
    ends = [
        {**r, "low": r["lo"] and r["nll_base"] + r["lo"], "high": r["hi"] and r["nll_base"] + r["hi"]} for r in ladder
    ]
    return [*bases.values(), *ends]


def _by_rung(rows: Sequence[Row], value: str, low: str, high: str) -> alt.TopLevelMixin:
    import altair as alt

    values = [
        {
            "domain": _panel(r),
            "tokens": r["pretrain_tokens"],
            "gamma": f"{r['gamma']:g}" if r["gamma"] else "none",
            "value": r[value],
            "lo": r.get(low),
            "hi": r.get(high),
        }
        for r in rows
    ]
    names = list(
        dict.fromkeys(v["gamma"] for v in sorted(values, key=lambda v: v["gamma"] != "none" and float(v["gamma"])))
    )
    colours = ([GREY] if names[0] == "none" else []) + list(COLOURS)
    across = by_pretraining([v["tokens"] for v in values])
    colour = alt.Color("gamma:N", title="gamma", sort=names, scale=alt.Scale(domain=names, range=colours[: len(names)]))
    title = f"{'rise of NLL' if value == 'rise_nats' else 'NLL'}, nats per token"
    source = alt.Chart(alt.Data(values=values))
    up = alt.Y("value:Q", title=title, scale=alt.Scale(zero=value == "rise_nats"))
    lines = source.mark_line(strokeWidth=2).encode(x=across, y=up, color=colour)
    dots = source.mark_point(filled=True, size=45, opacity=1).encode(x=across, y=up, color=colour)
    bars = (
        source.transform_filter("isValid(datum.lo)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=across, y=alt.Y("lo:Q", title=title), y2="hi:Q", color=colour)
    )
    chart = alt.layer(bars, lines, dots, data=source.data).properties(width=300, height=230)
    return styled(by_domain(chart, values, wide=True).resolve_scale(y="independent"))


def _by_norm(rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    most = {_panel(r): max(o["pretrain_tokens"] or 0 for o in rows if _panel(o) == _panel(r)) for r in rows}
    values = [
        {
            "domain": f"{_panel(r)} · {base(r)}",
            "intervention": who(r),
            "norm": r["norm"],
            "value": r["rise_nats"],
            "lo": r["lo"],
            "hi": r["hi"],
        }
        for r in rows
        if (r["pretrain_tokens"] or 0) == most[_panel(r)]
    ]
    names = list(dict.fromkeys(v["intervention"] for v in values))
    span = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    source = alt.Chart(alt.Data(values=values))
    across = alt.X(
        "norm:Q",
        title="Frobenius norm of the shift",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(grid=False, tickCount=4),
    )
    colour = alt.Color(
        "intervention:N",
        title="shift",
        sort=names,
        scale=alt.Scale(domain=names, range=span),
        legend=alt.Legend(orient="bottom", columns=2, symbolOpacity=1),
    )
    up = alt.Y("value:Q", title="rise of NLL, nats per token")
    zero = source.mark_rule(color=INK, strokeWidth=1).encode(y=alt.datum(0))
    lines = source.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=across, y=up, color=colour)
    dots = source.mark_point(filled=True, size=55, opacity=1).encode(
        x=across, y=up, color=colour, shape=alt.Shape("intervention:N", sort=names, legend=None)
    )
    bars = (
        source.transform_filter("isValid(datum.lo)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=across, y="lo:Q", y2="hi:Q", color=colour)
    )
    chart = alt.layer(zero, bars, lines, dots, data=source.data).properties(width=300, height=230)
    return styled(by_domain(chart, values, wide=True).resolve_scale(y="independent"))
