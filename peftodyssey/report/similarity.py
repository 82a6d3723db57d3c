"""Similarity of each text to the pretraining text, and whether degradation grows with it.

Numbers are those of `similarity.parquet` and `correlation.parquet`; the figure is in `similarity_chart`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import base
from peftodyssey.report.section import Section
from peftodyssey.report.similarity_chart import figures
from peftodyssey.stats.similarity import MEASURES

__all__ = ["figures", "sections"]

Row = Mapping[str, Any]
ALIKE, GROWS = "alike", "likeness"
ALIKE_TITLE = "How like the pretraining text is each text?"
GROWS_TITLE = "Does degradation grow with likeness to the pretraining text?"
UNMEASURED = "Not measured: the recipe's `measure` has no `similarity`, which needs a `pretraining_text`."
NO_POINTS = "Not measured: no finished cell has a text whose likeness is known."
HEADLINE = "mmd2"  # what the sentence speaks of: named beforehand, the others are in the table
FEW_CHUNKS = 100
CLEAR = 0.05
CAPTION = (
    "Distances from half of the pretraining sample, on as many chunks for every text. The floor is the other half: "
    "what each number is "
    "where there is nothing to find. p: permutations of whole documents."
)
CORRELATIONS = (
    "Change of test NLL against each measure, texts as points. Within: differences within groups of texts alone. "
    "Brackets hold 95 % intervals "
    "(Fisher's z); p is of permutations and held against all measures (Holm); left out: range when any one text is."
)


def sections(similar: Sequence[Row], correlations: Sequence[Row]) -> list[Section]:
    """The two questions; one sentence where nothing was measured."""
    if not similar:
        return [Section(GROWS, GROWS_TITLE, [UNMEASURED])]
    bases = _parted(similar, ("run", "recipe", "model", "revision"))
    families = _parted(correlations, ("run", "recipe", "model", "revision", "newline", "label"))
    alike = Section(
        ALIKE,
        ALIKE_TITLE,
        [_nearest(rows) for rows in bases],
        _headings(),
        [_line(row, similar) for row in similar],
        CAPTION,
    )
    grows = [_verdict(rows, correlations) for rows in families] or [NO_POINTS]
    lines = [_correlation(row, correlations) for rows in families for row in rows if row["r"] is not None]
    headings = ("base and method", "measure", "statistic", "texts", "coefficient", "p (Holm)", "left out")
    return [alike, Section(GROWS, GROWS_TITLE, grows, headings, lines, CORRELATIONS)]


def _parted(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(column) for column in columns), []).append(row)
    return list(found.values())


def _nearest(rows: Sequence[Row]) -> str:
    """The nearest and the farthest text of one base, beside the floor."""
    texts, floor = sorted((row for row in rows if row["kind"] == "text"), key=lambda row: row["mmd2"]), rows[-1]
    near, far = texts[0], texts[-1]
    said = (
        f"On {near['chunks']} chunks of {near['chunk_tokens']} tokens each, {base(near)} finds "
        f"{result_text.text_name(near)} nearest to its pretraining text "
    )
    said += f"(MMD² {near['mmd2']:.4f}, {_p(near['mmd_p'])})"
    if len(texts) > 1:
        said += f" and {result_text.text_name(far)} farthest ({far['mmd2']:.4f}, {_p(far['mmd_p'])})"
    said += f"; two halves of that text lie at {floor['mmd2']:.4f} ({_p(floor['mmd_p'])})."
    if near["chunks"] < FEW_CHUNKS:
        said += (
            f" {near['chunks']} chunks are few: every text gives as many as the shortest; a larger "
            f"score.tokens gives more."
        )
    return said


def _verdict(rows: Sequence[Row], correlations: Sequence[Row]) -> str:
    """One method on one base: the headline's coefficients, and which measures are clear."""
    first = rows[0]
    of = {(row["measure"], row["statistic"], row["scope"]): row for row in rows}
    pooled, within = of[HEADLINE, "spearman", "pooled"], of[HEADLINE, "spearman", "within"]
    said = (
        f"{first['label']}{_where(first, correlations)}, {pooled['domains']} texts: Spearman's correlation of "
        f"the change on test with MMD² from the "
    )
    said += (
        f"pretraining text is {_coefficient(pooled)} ({_p(pooled['p_holm'])} after Holm's correction over the measures)"
    )
    said += (
        f", within groups {_coefficient(within)}" if within["r"] is not None else ", within groups it cannot be given"
    )
    clear = {
        (row["measure"], row["statistic"], row["scope"]): row
        for row in rows
        if row["p_holm"] is not None and row["p_holm"] < CLEAR
    }
    found = clear.get((HEADLINE, "spearman", "pooled"))
    said += f": {_direction(found) if found else _too_few(pooled)}."
    others = [row for row in clear.values() if row["scope"] == "pooled" and row is not found]
    held = [row for row in clear.values() if row["scope"] == "within"]
    said += f" {'Also clear' if found else 'Clear'}, pooled: {_named(others)}{_all_say(others)}." if others else ""
    return said + (
        f" Clear within groups: {_named(held)}{_all_say(held)}." if held else " No measure is clear within groups."
    )


def _all_say(rows: Sequence[Row]) -> str:
    """What clear coefficients mean, where they agree."""
    found = {_direction(row) for row in rows}
    return f", {found.pop()}" if len(found) == 1 else ", which do not agree in direction"


def _named(rows: Sequence[Row]) -> str:
    """The measures of some coefficients, each statistic's by itself."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["statistic"].capitalize(), []).append(MEASURES[row["measure"]].name)
    return "; ".join(f"{', '.join(held)} ({statistic})" for statistic, held in names.items())


def _direction(row: Row) -> str:
    """What a clear coefficient means: a distance that grows is likeness that falls."""
    return (
        "degradation grows with likeness"
        if row["r"] * MEASURES[row["measure"]].sign > 0
        else "degradation falls with likeness"
    )


def _too_few(row: Row) -> str:
    return f"too few texts to say ({row['domains']})" if row["p"] is None else "no clear relation"


def _where(row: Row, rows: Sequence[Row]) -> str:
    """The coordinates that tell this family from the others of the table."""
    varied = [
        name
        for name in ("run", "recipe", "model", "revision", "newline")
        if len({str(other.get(name)) for other in rows}) > 1
    ]
    return f" ({', '.join(str(row[name]) for name in varied if row.get(name) is not None)})" if varied else ""


def _coefficient(row: Row) -> str:
    return result_text.interval(row, "r", "lo", "hi", 2)


def _p(value: float | None) -> str:
    if value is None:
        return "no p"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _headings() -> tuple[str, ...]:
    units = [f"{measure.name}, {measure.unit}" if measure.unit else measure.name for measure in MEASURES.values()]
    return ("text", "base", "chunks", units[0], "p", *units[1:])


def _line(row: Row, rows: Sequence[Row]) -> list[str]:
    name = result_text.text_name(row) if row["kind"] == "text" else f"{row['domain']} (floor)"
    values = [_number(row.get(column)) for column in MEASURES]
    return [
        name,
        f"{base(row)}{_where(row, rows) if row.get('run') else ''}",
        str(row["chunks"]),
        values[0],
        _p(row["mmd_p"]),
        *values[1:],
    ]


def _number(value: float | None) -> str:
    return result_text.NO_NUMBER if value is None else f"{value:.4g}"


def _correlation(row: Row, rows: Sequence[Row]) -> list[str]:
    left_out = (
        result_text.NO_NUMBER
        if row["left_out_lo"] is None
        else f"{result_text.signed(row['left_out_lo'], 2)} to {result_text.signed(row['left_out_hi'], 2)}"
    )
    what = f"{row['statistic'].capitalize()}, {row['scope']}"
    return [
        f"{row['label']}{_where(row, rows)}",
        MEASURES[row["measure"]].name,
        what,
        str(row["domains"]),
        _coefficient(row),
        result_text.NO_NUMBER if row["p_holm"] is None else f"{row['p_holm']:.3f}",
        left_out,
    ]
