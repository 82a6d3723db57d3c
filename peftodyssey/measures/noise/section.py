"""Section: cost of noise on the weights, and of low-rank shifts, updates and rounding.

Made of rows of `noise.parquet` and `sensitivity.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from peftodyssey.display.chart_style import (
    COLOURS,
    GREY,
    Figure,
    chart_of,
    colour_by,
    interval_bars,
    panels,
    points,
    unique,
    x_pretraining,
    zero_line,
)
from peftodyssey.display.ladder_text import format_tokens, lowest_text, slope_text
from peftodyssey.display.result_text import (
    UNIT,
    Row,
    columns_of,
    grouped,
    interval,
    signed,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.noise.table import TABLE
from peftodyssey.measures.sensitivity.table import STEPS_TABLE
from peftodyssey.measures.sensitivity.table import TABLE as SLOPES_TABLE

TITLE = "How much does noise on the weights cost, and does it cost more the longer the pretraining?"
UNMEASURED = (
    "Noise on the weights was not measured: add `- noise: {gammas: [0.1, 0.2, 0.4]}` to the recipe's `measure`."
)
SCALES = {
    "initializer": "the configuration's initial standard deviation",
    "published": "the published initial standard deviation of each tensor",
    "fan_in": "1/sqrt(fan_in)",
    "earliest_rung": "the root mean square of the earliest rung",
    "relative": "the root mean square of the current weights (relative noise)",
}
ISOTROPIC = (
    " Low-rank noise is isotropic as Gaussian noise is, so to second order both cost the same: it checks that "
    "prediction, and says nothing about constrained updates."
)
LADDER = ("run", "recipe", "model", "arm", "corpus")
RISE = ("rise_nats", "lo", "hi")


def sections(sources: ReportSources) -> list[Section]:
    """The section, of all runs together."""
    return [section(sources.table(TABLE), sources.table(SLOPES_TABLE), sources.table(STEPS_TABLE))]


def section(noise: Sequence[Row], slopes: Sequence[Row], steps: Sequence[Row]) -> Section:
    """The section; `slopes` are rows of `sensitivity.parquet`, `steps` of `rung_steps.parquet`.

    Only a note if noise was not measured.
    """
    said = statements(noise, slopes, steps)
    return Section("noise", TITLE, said, figures(noise), notes=() if noise else (UNMEASURED,))


def statements(noise: Sequence[Row], slopes: Sequence[Row], steps: Sequence[Row]) -> list[str]:
    """One sentence per ladder and text at the largest noise, then the other shifts at the same norm, and rounding."""
    gaussian = [row for row in noise if row["kind"] == "gaussian"]
    said = [text for rows in _by_ladder(gaussian) for text in _noise_sentences(rows, noise, slopes, steps)]
    rounding = [row for row in noise if row["kind"] == "quantiser"]
    said += [_rounding_sentence(rows, slopes, steps) for rows in _by_ladder(rounding, "quantiser")]
    scaled = next((row for row in noise if row["kind"] != "quantiser"), None)
    if scaled is not None:
        said.append(
            f"Gamma is in units of {SCALES[scaled['scale']]}; noise is added to: "
            f"{scaled['tensors'].replace(',', ', ')}. Intervals are over noise pairs and clusters of documents, given "
            "these checkpoints: another pretraining run may differ by more."
        )
    return said


def _by_ladder(rows: Sequence[Row], *columns: str) -> list[list[Row]]:
    """Rows by ladder and text (and `columns`), by pretraining tokens."""
    ladders = grouped(rows, columns_of(*LADDER, *columns)).values()
    return [sorted(ladder, key=lambda row: row["pretrain_tokens"] or 0) for ladder in ladders]


def _noise_sentences(
    rows: Sequence[Row], noise: Sequence[Row], slopes: Sequence[Row], steps: Sequence[Row]
) -> Iterator[str]:
    """Cost of the largest Gaussian noise at both ends of a ladder, and of other shifts of its norm at the last rung."""
    largest = max(row["gamma"] for row in rows)
    rows = [row for row in rows if row["gamma"] == largest]
    first, last = rows[0], rows[-1]
    sentence = (
        f"{first['corpus']}, {first['arm'] or first['model']}: noise with gamma {first['gamma']:g} costs "
        f"{interval(first, RISE, 4)} {UNIT} at {rung_name(first)}"
    )
    if len(rows) > 1:
        sentence += f" and {interval(last, RISE, 4)} at {rung_name(last)}; {_trend(first, slopes, steps)}"
    yield f"{sentence}."
    key = columns_of(*LADDER, "revision", "pretrain_tokens", "gamma")
    others = [row for row in noise if row["kind"] in ("low_rank", "update") and key(row) == key(last)]
    if others:
        costs = ", ".join(f"{shift_name(row)} {interval(row, RISE, 4)}" for row in others)
        yield (
            f"{last['corpus']}, {rung_name(last)}, at the same Frobenius norm ({last['norm']:.3g}): gaussian "
            f"{signed(last['rise_nats'], 4)}, {costs} {UNIT}.{_isotropic(others)}"
        )


def _isotropic(rows: Sequence[Row]) -> str:
    """What low-rank noise can say, where there is any."""
    return ISOTROPIC if any(row["kind"] == "low_rank" for row in rows) else ""


def _trend(row: Row, slopes: Sequence[Row], steps: Sequence[Row]) -> str:
    slope = slope_of(row, slopes, "gaussian")
    if slope is None:
        return "the pretraining tokens of the rungs are unknown, so there is no trend"
    lowest = lowest_text(slope)
    after = f"; with the noise, the loss {lowest}" if lowest else ""
    return f"along the ladder {slope_text(slope, steps)}{after}"


def _rounding_sentence(rows: Sequence[Row], slopes: Sequence[Row], steps: Sequence[Row]) -> str:
    """Cost of rounding the weights without any adapter, at the first and the last rung of a ladder."""
    first, last = rows[0], rows[-1]
    ends = [first, last] if len(rows) > 1 else [first]
    costs = " and ".join(f"{interval(row, RISE, 4)} {UNIT} at {rung_name(row)}" for row in ends)
    slope = slope_of(last, slopes, str(last["quantiser"]))
    trend = f"; along the ladder {slope_text(slope, steps)}" if slope else ""
    return (
        f"{last['corpus']}, {last['arm'] or last['model']}: rounding the weights to {last['quantiser']} alone (norm "
        f"{last['norm']:.3g}) costs {costs}{trend}."
    )


def slope_of(row: Row, slopes: Sequence[Row], intervention: str) -> Row | None:
    """The slope of the ladder that a row of noise belongs to."""
    key = columns_of(*LADDER, "gamma")
    of_noise = (s for s in slopes if s["quantity"] == "noise" and s["intervention"] == intervention and not s["minus"])
    return next((slope for slope in of_noise if key(slope) == key(row)), None)


def shift_name(row: Row) -> str:
    """A shift of the weights in words."""
    if row["kind"] == "low_rank":
        return f"rank {row['rank']}"
    return f"along the update of {row['label']}" if row["kind"] == "update" else str(row["quantiser"] or row["kind"])


def rung_name(row: Row) -> str:
    """The rung by its pretraining tokens, else by its name."""
    tokens = row["pretrain_tokens"]
    return str(row["revision"] or row["model"]) if tokens is None else format_tokens(tokens)


def figures(noise: Sequence[Row]) -> list[Figure]:
    """Rise and loss by rung, and shifts of equal norm, where there are data."""
    drawn = []
    ladder = [row for row in noise if row["kind"] == "gaussian" and row["pretrain_tokens"]]
    if len({row["pretrain_tokens"] for row in ladder}) > 1:
        drawn = [
            Figure(
                "noise_by_rung",
                "Cost of noise by length of pretraining",
                "Rise of NLL under Gaussian noise on the weights against pretraining tokens, by size of the noise; "
                "bars are 95 % intervals over noise pairs and clusters of documents.",
                _by_rung([_rung_value(row, row["rise_nats"]) for row in ladder], "rise of NLL, nats per token", True),
            ),
            Figure(
                "noise_loss",
                "Loss with and without noise",
                "NLL of the base (grey) and of the base with noise against pretraining tokens; where an upper line "
                "turns up, longer pretraining makes the model with noise worse.",
                _by_rung(_losses(ladder), "NLL, nats per token", False),
            ),
        ]
    shifts = [
        row for row in noise if row["kind"] in ("gaussian", "low_rank", "update") and row["rise_nats"] is not None
    ]
    if any(row["kind"] != "gaussian" for row in shifts):
        caption = (
            "Rise of NLL of the most pretrained rung against the Frobenius norm of the shift, by its kind; at one "
            "norm only the direction differs."
        )
        title = "Full rank, low rank and real updates at equal norm"
        drawn.append(Figure("noise_rank", title, caption, _by_norm(shifts)))
    return drawn


def _panel(row: Row) -> str:
    name = " · ".join(str(part) for part in (row["corpus"], row["arm"]) if part)
    return f"{row['run']}: {name}" if row.get("run") else name


def _rung_value(row: Row, value: float, offset: float = 0.0) -> dict[str, Any]:
    ends = {end: None if row[end] is None else offset + row[end] for end in ("lo", "hi")}
    return {
        "domain": _panel(row),
        "tokens": row["pretrain_tokens"],
        "gamma": f"{row['gamma']:g}" if row["gamma"] else "none",
        "value": value,
        **ends,
    }


def _losses(ladder: Sequence[Row]) -> list[dict[str, Any]]:
    """The loss with each noise, and of each base as gamma 0."""
    bases = {(_panel(row), row["pretrain_tokens"]): row for row in ladder}.values()
    without = [_rung_value({**row, "gamma": 0.0, "lo": None, "hi": None}, row["nll_base"]) for row in bases]
    return without + [_rung_value(row, row["nll_perturbed"], row["nll_base"]) for row in ladder]


def _by_rung(values: Sequence[dict[str, Any]], title: str, from_zero: bool) -> alt.TopLevelMixin:
    gammas = sorted({value["gamma"] for value in values} - {"none"}, key=float)
    without = ["none"] if any(value["gamma"] == "none" for value in values) else []
    colours = [GREY] * len(without) + list(COLOURS[: len(gammas)])
    scale = alt.Scale(domain=without + gammas, range=colours)
    chart = chart_of(values)
    x = x_pretraining(value["tokens"] for value in values)
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=from_zero))
    colour = alt.Color("gamma:N", title="gamma", sort=without + gammas, scale=scale)
    layers = [
        interval_bars(chart, x=x, y=alt.Y("lo:Q", title=title), y2="hi:Q", color=colour),
        chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        points(chart, 45, x=x, y=y, color=colour),
    ]
    return panels(layers, values, (300, 230), wide=True, independent="y")


def _by_norm(rows: Sequence[Row]) -> alt.TopLevelMixin:
    most = {panel: max(row["pretrain_tokens"] or 0 for row in own) for panel, own in grouped(rows, _panel).items()}
    values = [
        {
            "domain": f"{_panel(row)} · {rung_name(row)}",
            "intervention": shift_name(row),
            "norm": row["norm"],
            "value": row["rise_nats"],
            "lo": row["lo"],
            "hi": row["hi"],
        }
        for row in rows
        if (row["pretrain_tokens"] or 0) == most[_panel(row)]
    ]
    names = unique(value["intervention"] for value in values)
    chart = chart_of(values)
    scale, axis = alt.Scale(type="log", nice=False, padding=16), alt.Axis(grid=False, tickCount=4)
    x = alt.X("norm:Q", title="Frobenius norm of the shift", scale=scale, axis=axis)
    y = alt.Y("value:Q", title="rise of NLL, nats per token")
    colour = colour_by("intervention", names, "shift", orient="bottom", columns=2, symbolOpacity=1)
    shape = alt.Shape("intervention:N", sort=names, legend=None)
    layers = [
        zero_line(chart, "y"),
        interval_bars(chart, x=x, y="lo:Q", y2="hi:Q", color=colour),
        chart.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=colour),
        points(chart, 55, x=x, y=y, color=colour, shape=shape),
    ]
    return panels(layers, values, (300, 230), wide=True, independent="y")
