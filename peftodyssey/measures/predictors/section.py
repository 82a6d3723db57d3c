"""Section: which number of a cell foretells its forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.predictors.table import TABLE

Row = dict[str, Any]
WORDS = {
    "learning": "learning",
    "update_norm_relative": "the length of the update",
    "effective_rank_mean": "the effective rank of the update",
    "intruder_dimensions": "intruder dimensions",
    "kl_target": "KL from the base on the text adapted to",
    "changed_guesses_target": "changed first guesses on the text adapted to",
    "directional_sharpness": "sharpness along the update",
    "kl_general": "KL from the base on general text",
    "changed_guesses_general": "changed first guesses on general text",
    "second_order": "slope and curvature along the update",
}
HEADINGS = ("text and base", "predictor", "measured on general text", "rank correlation", "skill", "error", "worst")
CAPTION = (
    "Forgetting by training of each method's cells (all rates and seeds), foretold by a monotone fit to the cells of "
    "the other methods. Skill: 1 foretells all of it, 0 no more than the other methods' mean does. Worst: the method "
    "with the lowest skill. Descriptive: cells of one text share their text and base, so there is no interval."
)
NOTHING = "Not measured: foretelling forgetting takes two methods or more, with four cells of the others."


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources.table(TABLE))]


def section(rows: Sequence[Row]) -> Section | None:
    """The section; None without a row."""
    groups = grouped(rows, columns_of("run", "recipe", "model", "revision", "domain")).values()
    said, table = [], []
    for own in groups:
        whole = sorted((row for row in own if row["left_out"] is None), key=lambda row: -row["skill"])
        if whole:
            said.append(_sentence(whole))
            table += [_line(row, own) for row in whole]
    if not rows:
        return None
    return Section(
        "predictors", "What foretells forgetting?", said or [NOTHING], headings=HEADINGS, table=table, caption=CAPTION
    )


def _sentence(rows: Sequence[Row]) -> str:
    """The best predictors that need no general text, and the best that do."""
    first = rows[0]
    apart = [row for row in rows if not row["on_general"]]
    where = f"{first['domain']} ({first['revision'] or first['model']})"
    if not apart or apart[0]["skill"] <= 0:
        said = f"{where}: nothing that is measured without general text foretells a left-out method's forgetting"
    else:
        best = apart[0]
        said = (
            f"{where}: {WORDS[best['predictor']]} foretells {100 * best['skill']:.0f} % of the variance of forgetting"
        )
        said += f" of methods left out, over {best['cells']} cells"
        others = [f"{WORDS[row['predictor']]} {100 * row['skill']:.0f} %" for row in apart[1:3] if row["skill"] > 0]
        said += f"; {', '.join(others)}" if others else "; nothing else does better than the other methods' mean"
    general = [row for row in rows if row["on_general"]]
    if general:
        best = general[0]
        said += f". Of what is measured on general text itself, {WORDS[best['predictor']]}: {100 * best['skill']:.0f} %"
    return f"{said}."


def _line(row: Row, rows: Sequence[Row]) -> list[str]:
    of_methods = [one for one in rows if one["predictor"] == row["predictor"] and one["left_out"] is not None]
    worst = min(of_methods, key=lambda one: one["skill"])
    return [
        f"{row['domain']} · {row['revision'] or row['model']}",
        WORDS[row["predictor"]],
        "yes" if row["on_general"] else "no",
        f"{row['spearman']:.2f}",
        f"{row['skill']:.2f}",
        f"{row['rmse']:.4f}",
        f"{worst['left_out']} {worst['skill']:.2f}",
    ]
