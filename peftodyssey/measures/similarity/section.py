"""Sections: how similar each text is to the pretraining text, and whether degradation grows with similarity.

Numbers are those of `similarity.parquet` and `correlation.parquet`; the figures are in `chart`.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftodyssey.display.result_text import (
    NO_NUMBER,
    Row,
    base_name,
    columns_of,
    coordinates,
    grouped,
    interval,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.similarity.chart import figures
from peftodyssey.measures.similarity.compute import MEASURES
from peftodyssey.measures.similarity.table import CORRELATION_TABLE, TABLE

SIMILARITY_TITLE = "How similar is each text to the pretraining text?"
DEGRADATION_TITLE = "Does degradation grow with similarity to the pretraining text?"
UNMEASURED = "Not measured: the recipe's `measure` has no `similarity`, which needs a `pretraining_text`."
NO_TEXTS = "Not measured: no finished cell has a text whose similarity is known."
FEW_CHUNKS = 100
ALPHA = 0.05
BASE = ("run", "recipe", "model", "revision")
METHOD = (*BASE, "newline", "label")
STATED = ("mmd2", "spearman")  # the coefficient of the sentence, fixed beforehand; the others are in the table
CORRELATION_HEADINGS = ("base and method", "measure", "statistic", "texts", "coefficient", "p (Holm)", "leave one out")
SIMILARITY_CAPTION = (
    "Distances from half of the pretraining sample, on equally many chunks of every text. The floor is the other "
    "half: each measure's value without a difference. p: permutations of whole documents."
)
CORRELATION_CAPTION = (
    "Change of test NLL against each measure; each text is a point. Within: only differences within groups of texts. "
    "Brackets are 95 % intervals (Fisher's z); p is from permutations and adjusted over the measures (Holm), but for "
    "Spearman's with MMD² over all texts, which was named in advance; leave one out: the range when any one "
    "text is left out."
)


def sections(sources: ReportSources) -> list[Section]:
    """The sections, of all runs together."""
    return questions(sources.table(TABLE), sources.table(CORRELATION_TABLE), sources.rows)


def questions(similar: Sequence[Row], correlations: Sequence[Row], rows: Sequence[Row]) -> list[Section]:
    """The two questions, or why they have no answer; `rows` are those of results."""
    if not similar:
        return [Section("degradation", DEGRADATION_TITLE, [UNMEASURED])]
    bases = grouped(similar, columns_of(*BASE)).values()
    methods = list(grouped(correlations, columns_of(*METHOD)).values())
    units = [f"{measure.name}, {measure.unit}" if measure.unit else measure.name for measure in MEASURES.values()]
    return [
        Section(
            "similarity",
            SIMILARITY_TITLE,
            [_nearest_and_farthest(texts) for texts in bases],
            headings=("text", "base", "chunks", units[0], "p", *units[1:]),
            table=[_similarity_row(row, similar) for row in similar],
            caption=SIMILARITY_CAPTION,
        ),
        Section(
            "degradation",
            DEGRADATION_TITLE,
            [_correlation_sentence(own, correlations) for own in methods] or [NO_TEXTS],
            figures(rows, similar),
            headings=CORRELATION_HEADINGS,
            table=[_correlation_row(row, correlations) for own in methods for row in own if row["r"] is not None],
            caption=CORRELATION_CAPTION,
        ),
    ]


def _nearest_and_farthest(rows: Sequence[Row]) -> str:
    """The nearest and the farthest text of one base, compared with the floor."""
    texts, floor = sorted((row for row in rows if row["kind"] == "text"), key=lambda row: row["mmd2"]), rows[-1]
    near, far = texts[0], texts[-1]
    sentence = (
        f"On {near['chunks']} chunks of {near['chunk_tokens']} tokens, the text most similar to the pretraining text "
        f"of {base_name(near)} is {text_name(near)} (MMD² {near['mmd2']:.4f}, {_p(near['mmd_p'])})"
    )
    if len(texts) > 1:
        sentence += f" and the least similar is {text_name(far)} ({far['mmd2']:.4f}, {_p(far['mmd_p'])})"
    sentence += f"; the two halves of the pretraining sample differ by {floor['mmd2']:.4f} ({_p(floor['mmd_p'])})."
    if near["chunks"] < FEW_CHUNKS:
        sentence += (
            f" {near['chunks']} chunks are few (the shortest text has no more); a larger score.tokens gives more."
        )
    return sentence


def _correlation_sentence(rows: Sequence[Row], correlations: Sequence[Row]) -> str:
    """One method on one base: the stated coefficient, and which other measures are significant."""
    by_kind = {(row["measure"], row["statistic"], row["scope"]): row for row in rows}
    pooled, within = by_kind[*STATED, "pooled"], by_kind[*STATED, "within"]
    within_groups = f"is {_coefficient(within)}" if within["r"] is not None else "cannot be computed"
    significant = [row for row in rows if row["p_holm"] is not None and row["p_holm"] < ALPHA]
    others = [row for row in significant if row["scope"] == "pooled" and row is not pooled]
    in_groups = [row for row in significant if row["scope"] == "within"]
    if pooled in significant:
        outcome = _direction(pooled)
    else:
        outcome = f"too few texts ({pooled['domains']})" if pooled["p"] is None else "no significant relation"
    also = (
        f" {'Also significant' if pooled in significant else 'Significant'}, pooled: {_named(others)}."
        if others
        else ""
    )
    groups = (
        f"Significant within groups: {_named(in_groups)}." if in_groups else "No measure is significant within groups."
    )
    return (
        f"{rows[0]['label']}{_where(rows[0], correlations)}, {pooled['domains']} texts: Spearman's correlation of the "
        f"change on test with MMD² from the pretraining text is {_coefficient(pooled)} ({_p(pooled['p'])}, the "
        f"one test named in advance); within groups it {within_groups}: {outcome}.{also} {groups}"
    )


def _named(rows: Sequence[Row]) -> str:
    """The measures of some coefficients by statistic, and what they say if they agree."""
    by_statistic = grouped(rows, lambda row: str(row["statistic"]).capitalize())
    names = "; ".join(
        f"{', '.join(MEASURES[row['measure']].name for row in own)} ({statistic})"
        for statistic, own in by_statistic.items()
    )
    directions = {_direction(row) for row in rows}
    return f"{names}, {directions.pop() if len(directions) == 1 else 'which do not agree in direction'}"


def _direction(row: Row) -> str:
    """What the sign of a coefficient means; a larger distance is a smaller similarity."""
    grows = row["r"] * MEASURES[row["measure"]].sign > 0
    return f"degradation {'grows' if grows else 'falls'} with similarity"


def _where(row: Row, rows: Sequence[Row]) -> str:
    """The coordinates that tell this base and method from the others of the table."""
    return coordinates(row, rows, (*BASE, "newline"))


def _coefficient(row: Row) -> str:
    return interval(row, ("r", "lo", "hi"), 2)


def _p(value: float | None) -> str:
    if value is None:
        return "no p"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _similarity_row(row: Row, rows: Sequence[Row]) -> list[str]:
    values = [NO_NUMBER if row.get(column) is None else f"{row[column]:.4g}" for column in MEASURES]
    return [
        text_name(row) if row["kind"] == "text" else f"{row['domain']} (floor)",
        f"{base_name(row)}{_where(row, rows) if row.get('run') else ''}",
        str(row["chunks"]),
        values[0],
        _p(row["mmd_p"]),
        *values[1:],
    ]


def _correlation_row(row: Row, rows: Sequence[Row]) -> list[str]:
    lower, upper = row["left_out_lo"], row["left_out_hi"]
    return [
        f"{row['label']}{_where(row, rows)}",
        MEASURES[row["measure"]].name,
        f"{row['statistic'].capitalize()}, {row['scope']}",
        str(row["domains"]),
        _coefficient(row),
        NO_NUMBER if row["p_holm"] is None else f"{row['p_holm']:.3f}",
        NO_NUMBER if lower is None else f"{signed(lower, 2)} to {signed(upper, 2)}",
    ]
