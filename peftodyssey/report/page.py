"""The report as one HTML file that needs no network, from a Jinja template with escaping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from peftodyssey.report import noise, result_text, token_sentences
from peftodyssey.report.chart_style import Figure, unique
from peftodyssey.report.result_text import DELTA, NO_NUMBER, Row, amount, interval
from peftodyssey.report.section import Section
from peftodyssey.report.token_evidence import Evidence
from peftodyssey.report.token_sentences import PART, RECALL, TokenTables
from peftodyssey.report.token_text import visible
from peftodyssey.store import atomic

TEMPLATE = "page.html.j2"
FACTORS = {
    "position": "position in the document",
    "frequency": "occurrences of the token in the pretraining sample",
    "surprisal": "decile of the base's NLL (regression to the mean makes hard tokens fall and easy ones rise)",
}


@dataclass(frozen=True)
class ReportData:
    """Everything that the page and the summary show."""

    rows: Sequence[Row]  # of results.parquet
    sections: Sequence[Section]
    figures: Sequence[Figure]
    tables: TokenTables
    evidence: Sequence[Evidence]
    token_figures: Sequence[Figure]
    has_noise: bool
    drawn: dict[str, str] = field(default_factory=dict)  # figure name -> SVG

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
        _environment()
        .get_template(TEMPLATE)
        .render(
            data=data,
            statements=result_text.statements(data.rows),
            caveats=result_text.caveats(data.rows),
            unmeasured=unmeasured(data),
            tokens=token_sentences.statements(data.rows, data.tables),
            tokens_unmeasured=token_sentences.unmeasured(data.rows, data.tables),
            drawn={name: Markup(svg) for name, svg in data.drawn.items()},  # drawn by Vega, which escapes its text
            several_runs=any(row.get("run") for row in data.rows),
        )
    )


def unmeasured(data: ReportData) -> list[str]:
    """What a reader may look for and not find, and why."""
    done = [row for row in data.rows if row["status"] == "done"]
    factors = {entry["factor"] for entries in data.tables.breakdown.values() for entry in entries}
    notes = {
        "Forgetting was not measured: the recipe names no `general` text.": not any(
            row.get("forgetting") is not None for row in done
        ),
        "There is no validation split, so no learning rate could be selected.": not any(
            row.get("valid_nll_after") is not None for row in done
        ),
        "Peak memory is missing where nothing was trained.": any(row.get("peak_memory_bytes") is None for row in done),
        "Frequency in the pretraining text was not measured: the recipe names no `pretraining_text`.": bool(factors)
        and "frequency" not in factors,
        "NLL says how well text is predicted, not how well a task is solved.": True,
        noise.UNMEASURED: not data.has_noise,
    }
    return [note for note, applies in notes.items() if applies]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("peftodyssey.report", "templates"),
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
        format_bytes=result_text.format_bytes,
        format_count=result_text.format_count,
        format_lr=result_text.format_lr,
        visible=visible,
        fixed=_fixed,
        percent=token_sentences.percent,
        class_names=token_sentences.CLASS_NAMES,
        factors=FACTORS,
        part=_part,
        recall_points=_recall_points,
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


def _part(entry: Row) -> str:
    return interval(entry, PART)


def _recall_points(entry: Row) -> str:
    """The change of recall at 10 in percentage points, with its interval."""
    return amount([entry], RECALL, "", 1, 100)


def _outcome(row: Row) -> str:
    """CSS class of a change: better, worse, or none."""
    outcome = result_text.verdict([row], DELTA)
    return outcome if outcome in ("better", "worse") else "none"
