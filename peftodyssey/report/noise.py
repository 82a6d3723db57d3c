"""What noise of the weights costs, in sentences and figures. Called by `report.build`, page and summary.

Made of rows of `noise.parquet` and `sensitivity.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.chart_style import COLOURS, GREY, INK, Figure, by_domain, by_pretraining, styled
from peftodyssey.report.result_text import UNIT, interval, signed
from peftodyssey.report.section import Section

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION = "noise"
QUESTION = "How much does noise of the weights cost, and does it cost more the longer the pretraining?"
UNMEASURED = (
    "Noise of the weights was not measured: add `- noise: {gammas: [0.1, 0.2, 0.4]}` to the recipe's `measure`."
)
SCALES = {
    "initializer": "the configuration's initial standard deviation",
    "fan_in": "1/sqrt(fan_in)",
    "earliest_rung": "the root mean square of the earliest rung",
    "relative": "the root mean square of the current weights (relative noise)",
}
LINE = ("run", "recipe", "model", "arm", "corpus")


def section(noise: Sequence[Row], sensitivity: Sequence[Row]) -> Section | None:
    """The question with its answers; None where nothing of it was measured."""
    said = statements(noise, sensitivity)
    return Section(SECTION, QUESTION, said) if said else None


def statements(noise: Sequence[Row], sensitivity: Sequence[Row]) -> list[str]:
    """One sentence a ladder and text at the largest noise, then what low rank, updates and rounding cost at the same
    norm.
    """
    said = [text for rungs in _lines(noise, "gaussian") for text in _said(rungs, noise, sensitivity)]
    said += _rounding(noise, sensitivity)
    if any(row["kind"] != "quantiser" for row in noise):
        first = next(row for row in noise if row["kind"] != "quantiser")
        said.append(
            f"Gamma is in units of {SCALES[first['scale']]}; shifted: {first['tensors'].replace(',', ', ')}. "
            f"Intervals are over pairs of noise and "
            "documents, given these checkpoints: another pretraining run may differ by more."
        )
    return said


def _lines(noise: Sequence[Row], kind: str) -> Iterator[list[Row]]:
    """Rows of a kind by ladder and text, each at its largest gamma, by pretraining tokens."""
    keys = dict.fromkeys(tuple(row.get(name) for name in LINE) for row in noise if row["kind"] == kind)
    for key in keys:
        own = [row for row in noise if row["kind"] == kind and tuple(row.get(name) for name in LINE) == key]
        largest = max(row["gamma"] for row in own)
        yield sorted((row for row in own if row["gamma"] == largest), key=lambda row: row["pretrain_tokens"] or 0)


def _said(rungs: Sequence[Row], noise: Sequence[Row], sensitivity: Sequence[Row]) -> Iterator[str]:
    first, last = rungs[0], rungs[-1]
    where = f"{first['corpus']}, {first['arm'] or first['model']}"
    opening = (
        f"{where}: noise of gamma {first['gamma']:g} costs {interval(first, 'rise_nats', 'lo', 'hi', 4)} "
        f"{UNIT} at {base(first)}"
    )
    if len(rungs) == 1:
        yield opening + "."
    else:
        yield (
            f"{opening} and {interval(last, 'rise_nats', 'lo', 'hi', 4)} at {base(last)}; {_trend(first, sensitivity)}."
        )
    yield from _at_equal_norm(last, noise)


def _trend(row: Row, sensitivity: Sequence[Row]) -> str:
    found = slope_of(row, sensitivity, "gaussian")
    if found is None:
        return "the pretraining tokens of the rungs are not known, so no trend is given"
    amount, turns = interval(found, "slope", "slope_lo", "slope_hi", 4), turn(found)
    return f"per tenfold pretraining {amount} {UNIT}: {verdict(found)}" + f"; with the noise, the loss {turns}" * bool(
        turns
    )


def turn(row: Row) -> str:
    """Where the modified model's loss is lowest along the ladder, in words to follow "the loss"; empty where it was not
    asked.
    """
    if row["turn_tokens"]:
        return f"is lowest at {tokens(row['turn_tokens'])} [{tokens(row['turn_lo'])}, {tokens(row['turn_hi'])}]"
    if row["turn_share"] is None:
        return ""
    return "rises from the first rung on" if row["turn_share"] > 0.5 else "falls to the last rung"


def slope_of(row: Row, sensitivity: Sequence[Row], who: str) -> Row | None:
    """The slope of the line that a row of noise belongs to."""
    same = ("run", "recipe", "model", "arm", "corpus", "gamma")
    return next(
        (
            s
            for s in sensitivity
            if s["quantity"] == "noise"
            and s["intervention"] == who
            and not s["minus"]
            and all(s.get(n) == row.get(n) for n in same)
        ),
        None,
    )


def verdict(row: Row) -> str:
    """What a slope's interval says."""
    if row["slope_lo"] is None:
        return "no interval, so no verdict"
    if row["slope_lo"] > 0:
        return "longer pretraining costs more"
    return "longer pretraining costs less" if row["slope_hi"] < 0 else "no clear trend"


def _at_equal_norm(row: Row, noise: Sequence[Row]) -> Iterator[str]:
    """What other shifts of the same length cost on the same base and text."""
    same = (*LINE, "revision", "pretrain_tokens")
    others = [
        o
        for o in noise
        if o["kind"] in ("low_rank", "update")
        and o["gamma"] == row["gamma"]
        and all(o.get(n) == row.get(n) for n in same)
    ]
    if others:
        costs = ", ".join(f"{who(o)} {interval(o, 'rise_nats', 'lo', 'hi', 4)}" for o in others)
        yield (
            f"{row['corpus']}, {base(row)}, at the same Frobenius norm ({row['norm']:.3g}): gaussian "
            f"{signed(row['rise_nats'], 4)}, {costs} {UNIT}."
        )


def _rounding(noise: Sequence[Row], sensitivity: Sequence[Row]) -> Iterator[str]:
    """The cost of quantising the weights without any adapter, at the first and last rung of each ladder."""
    keys = dict.fromkeys(
        (*(row.get(name) for name in LINE), row["quantiser"]) for row in noise if row["kind"] == "quantiser"
    )
    for key in keys:
        own = [
            row
            for row in noise
            if row["kind"] == "quantiser" and (*(row.get(name) for name in LINE), row["quantiser"]) == key
        ]
        own.sort(key=lambda row: row["pretrain_tokens"] or 0)
        costs = " and ".join(
            f"{interval(row, 'rise_nats', 'lo', 'hi', 4)} {UNIT} at {base(row)}"
            for row in (own[:1] + own[-1:])[: len(own)]
        )
        slope = slope_of(own[0], sensitivity, str(own[0]["quantiser"]))
        trend = (
            f"; per tenfold pretraining {interval(slope, 'slope', 'slope_lo', 'slope_hi', 4)}: {verdict(slope)}"
            if slope
            else ""
        )
        where = f"{own[0]['corpus']}, {own[0]['arm'] or own[0]['model']}"
        yield (
            f"{where}: rounding the weights to {own[0]['quantiser']} alone (norm {own[-1]['norm']:.3g}) costs "
            f"{costs}{trend}."
        )


def who(row: Row) -> str:
    """A shift in words."""
    if row["kind"] == "low_rank":
        return f"rank {row['rank']}"
    return f"along the update of {row['label']}" if row["kind"] == "update" else str(row["quantiser"] or row["kind"])


def base(row: Row) -> str:
    """The rung by its tokens, else by its name."""
    return (
        tokens(row["pretrain_tokens"]) if row["pretrain_tokens"] is not None else str(row["revision"] or row["model"])
    )


def tokens(count: float | None) -> str:
    """Pretraining tokens as people write them: 64M tokens, 2.3T tokens; a dash outside of the ladder."""
    if count is None:
        return "beyond the ladder"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit} tokens"
    return f"{count:g} tokens"


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
