"""The report as one HTML file that needs no network, from a Jinja template with escaping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from peftodyssey.display import counts, result_text
from peftodyssey.display.chart_style import Figure, unique
from peftodyssey.display.result_text import DELTA, NO_NUMBER, Row
from peftodyssey.display.section import Section
from peftodyssey.store import atomic

TEMPLATE = "page.html.j2"
PART = "section.html.j2"  # of a section that has templates of its own
NLL_IS_NO_TASK = "NLL says how well text is predicted, not how well a task is solved."


@dataclass(frozen=True)
class ReportData:
    """Everything that the page and the summary show."""

    rows: Sequence[Row]  # of results.parquet
    sections: Sequence[Section]
    figures: Sequence[Figure]  # those of no section
    limits: Sequence[str] = ()  # sentences beside those that the rows give
    drawn: dict[str, str] = field(default_factory=dict)  # figure name -> SVG

    @property
    def shown(self) -> list[Section]:
        """The sections that say something, in the order of the page."""
        shown = [section for section in self.sections if section.is_shown]
        return sorted(shown, key=lambda section: section.place == "end")

    @property
    def recipes(self) -> list[str]:
        """Names of the recipes."""
        return unique(row["recipe"] for row in self.rows)

    @property
    def models(self) -> list[str]:
        """Names of the base models."""
        return unique(row["model"] for row in self.rows)


def write(data: ReportData, path: Path) -> Path:
    """Write the page to `path` in one step."""
    atomic.write_text(path, html(data))
    return path


def html(data: ReportData) -> str:
    """The page's text. Every word that comes from a recipe, a document or a token is escaped."""
    return (
        _environment(data.shown)
        .get_template(TEMPLATE)
        .render(
            data=data,
            statements=result_text.statements(data.rows),
            caveats=[*data.limits, *result_text.caveats(data.rows)],
            notes=notes(data),
            opening=[section for section in data.shown if section.place == "start"],
            closing=[section for section in data.shown if section.place == "end"],
            part=PART,
            drawn={name: Markup(svg) for name, svg in data.drawn.items()},  # drawn by Vega, which escapes its text
            several_runs=any(row.get("run") for row in data.rows),
        )
    )


def notes(data: ReportData) -> list[str]:
    """What a reader may look for and not find, and why: of the cells, of the sections, and of those not shown."""
    done = [row for row in data.rows if row["status"] == "done"]
    missing = {
        "Forgetting was not measured: the recipe names no `general` text.": not any(
            row.get("forgetting") is not None for row in done
        ),
        "There is no validation split, so no learning rate could be selected.": not any(
            row.get("valid_nll_after") is not None for row in done
        ),
        "Peak memory is missing where nothing was trained.": any(row.get("peak_memory_bytes") is None for row in done),
    }
    return [
        *(note for note, applies in missing.items() if applies),
        *(note for section in data.shown for note in section.notes),
        NLL_IS_NO_TASK,
        *(note for section in data.sections if not section.is_shown for note in section.notes),
    ]


def _environment(sections: Sequence[Section]) -> jinja2.Environment:
    """The page's template, those of `sections` under their names, and the functions that all of them call."""
    own = {section.name: jinja2.PackageLoader(section.templates) for section in sections if section.templates}
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("peftodyssey.report"), jinja2.PrefixLoader(own)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        base_name=result_text.base_name,
        method_name=result_text.method_name,
        text_name=result_text.text_name,
        delta=result_text.delta,
        forgetting=result_text.forgetting,
        learning_rate=result_text.learning_rate,
        signed=result_text.signed,
        format_bytes=counts.format_bytes,
        format_count=counts.format_count,
        format_lr=result_text.format_lr,
        fixed=_fixed,
        duration=_duration,
        outcome=_outcome,
    )
    return environment


def _fixed(value: float | None, digits: int = 3) -> str:
    return NO_NUMBER if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NO_NUMBER
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.1f} {unit}"


def _outcome(row: Row) -> str:
    """CSS class of a change: better, worse, or none."""
    outcome = result_text.verdict([row], DELTA)
    return outcome if outcome in ("better", "worse") else "none"
