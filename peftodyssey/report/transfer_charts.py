"""The transfer matrix as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.chart_style import COLOURS, INK, QUIET, Figure, styled
from peftodyssey.report.result_text import signed
from peftodyssey.report.transfer import SECTION, Matrix

if TYPE_CHECKING:
    import altair as alt

STEP, HEIGHT = 46, 34  # pixels of a cell
DARK = 0.85  # share of the scale from which numbers are white
WIDEST = 840  # pixels of the matrices that stand beside each other


def figures(found: Sequence[Matrix]) -> list[Figure]:
    """One figure with a matrix per method and base; none where nothing was measured."""
    if not found:
        return []
    caption = (
        "Change of test NLL in nats per token: down, the text adapted to; across, the text scored. Blue: better, "
        "orange: worse, white: no "
        "change. Framed: the text adapted to itself. Bold: the 95 % interval of every seed lies on one side of 0; "
        "means over seeds."
    )
    return [Figure("transfer", "What adapting to one text does to the others", caption, _maps(found), SECTION)]


def _maps(found: Sequence[Matrix]) -> alt.TopLevelMixin:
    import altair as alt

    values = [value for matrix in found for value in _values(matrix)]
    names = list(dict.fromkeys(matrix.name for matrix in found))
    trained = list(dict.fromkeys(value["trained_on"] for value in values))
    own_first = sorted(values, key=lambda value: not value["in_domain"])  # the framed ones lie on the diagonal
    scored = list(dict.fromkeys(value["scored_on"] for value in own_first))
    top = max(abs(value["delta"]) for value in values) or 1.0
    source = alt.Chart(alt.Data(values=values))
    down = alt.Y("trained_on:N", sort=trained, title="adapted to", axis=_axis())
    across = alt.X("scored_on:N", sort=scored, title="scored on", axis=_axis(labelAngle=-35))
    colour = alt.Color(
        "delta:Q",
        title="change, nats/token",
        scale=alt.Scale(domain=[-top, 0, top], range=[COLOURS[0], "#f7f7f7", COLOURS[1]], type="linear"),
        legend=alt.Legend(orient="bottom", gradientLength=260, format="+.2f"),
    )
    boxes = source.mark_rect(stroke="white", strokeWidth=1).encode(x=across, y=down, color=colour)
    own = (
        source.transform_filter("datum.own").mark_rect(filled=False, stroke=INK, strokeWidth=2).encode(x=across, y=down)
    )
    ink = alt.condition(f"abs(datum.delta) > {DARK * top}", alt.value("white"), alt.value(INK))
    quiet = alt.condition(f"abs(datum.delta) > {DARK * top}", alt.value("white"), alt.value(QUIET))
    sure = (
        source.transform_filter("datum.sure")
        .mark_text(fontSize=12, fontWeight="bold")
        .encode(x=across, y=down, text="said:N", color=ink)
    )
    unsure = (
        source.transform_filter("!datum.sure")
        .mark_text(fontSize=12)
        .encode(x=across, y=down, text="said:N", color=quiet)
    )
    layers = alt.layer(boxes, own, sure, unsure, data=source.data).properties(
        width=STEP * len(scored), height=HEIGHT * len(trained)
    )
    facet = alt.Facet("method:N", sort=names, header=alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6))
    beside = next(n for n in (3, 2, 1) if len(names) % n == 0 and (n == 1 or n * STEP * len(scored) <= WIDEST))
    return styled(layers.facet(facet=facet, columns=beside, spacing={"row": 24, "column": 28}))


def _axis(**more: Any) -> alt.Axis:
    import altair as alt

    return alt.Axis(ticks=False, domain=False, grid=False, labelPadding=6, labelOverlap=False, **more)


def _values(matrix: Matrix) -> list[dict[str, Any]]:
    return [
        {
            "method": matrix.name,
            "trained_on": pair.trained_on,
            "scored_on": pair.scored_on,
            "in_domain": pair.in_domain,
            "delta": pair.delta,
            "sure": bool(pair.verdict),
            "said": signed(pair.delta, 2),
        }
        for pair in matrix.pairs
    ]
