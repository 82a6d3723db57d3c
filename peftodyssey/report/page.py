"""The report as one HTML file that needs no network, from a Jinja template with escaping on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.report import newlines, noise, result_text, token_sentences
from peftodyssey.report.chart_style import Figure, base
from peftodyssey.report.newlines import Mismatch
from peftodyssey.report.section import Section
from peftodyssey.report.token_evidence import Evidence
from peftodyssey.report.transfer import Matrix
from peftodyssey.report.visible import visible
from peftodyssey.store import atomic

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "page.html.j2"
FACTORS = {
    "position": "place in the document",
    "frequency": "occurrences of the token in the pretraining sample",
    "surprisal": "decile of the base's NLL (hard tokens fall and easy ones rise by chance alone)",
}


@dataclass(frozen=True)
class ReportData:
    """All that the page and the summary show."""

    recipes: tuple[str, ...]
    models: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    figures: Sequence[Figure] = ()
    drawn: Mapping[str, str] = field(default_factory=dict)  # figure name -> SVG
    evidence: Sequence[Evidence] = ()
    mismatches: Sequence[Mismatch] = ()
    transfer: Sequence[Matrix] = ()
    sections: Sequence[Section] = ()
    answered: Sequence[Mapping[str, Any]] = ()  # rows of tasks.parquet
    noise: Sequence[Mapping[str, Any]] = ()  # rows of noise.parquet
    sensitivity: Sequence[Mapping[str, Any]] = ()
    tables: token_sentences.Tables = field(default_factory=lambda: token_sentences.tables((), (), (), ()))


def write(content: ReportData, path: Path) -> Path:
    """Write the page to `path`, whole or not at all."""
    atomic.write_text(path, html(content))
    return path


def html(content: ReportData) -> str:
    """The page's text. Every word that comes from a recipe, a document or a token is escaped."""
    from markupsafe import Markup

    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            content=content,
            statements=result_text.statements(content.rows),
            caveats=result_text.caveats(content.rows),
            unmeasured=[*unmeasured(content.rows, content.tables), *([] if content.noise else [noise.UNMEASURED])],
            newlines=newlines.statements(content.mismatches, content.rows),
            tokens=token_sentences.statements(content.rows, content.tables),
            tokens_unmeasured=token_sentences.unmeasured(content.rows, content.tables),
            drawn={name: Markup(svg) for name, svg in content.drawn.items()},  # drawn by Vega, which escapes its text
            several_runs=any(row.get("run") for row in content.rows),
        )
    )


def unmeasured(rows: Sequence[Mapping[str, Any]], tables: token_sentences.Tables) -> list[str]:
    """What a reader may look for and not find, and why."""
    done = [row for row in rows if row["status"] == "done"]
    notes = []
    if not any(row.get("forgetting") is not None for row in done):
        notes.append("Forgetting was not measured: the recipe names no `general` text.")
    if not any(row.get("valid_nll_after") is not None for row in done):
        notes.append("There is no validation split, so no learning rate could be chosen.")
    if any(row.get("peak_memory_bytes") is None for row in done):
        notes.append("Peak memory is missing where nothing was trained.")
    if tables.ledger and not any(
        entry["factor"] == "frequency" for entries in tables.ledger.values() for entry in entries
    ):
        notes.append("Frequency in the pretraining text was not measured: the recipe names no `pretraining_text`.")
    notes.append("NLL says how well text is predicted, not how well a task is solved.")
    return notes


def _environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("peftodyssey.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        base=base,
        method_name=result_text.method_name,
        text_name=result_text.text_name,
        delta=result_text.delta,
        forgetting=result_text.forgetting,
        learning_rate=result_text.learning_rate,
        signed=result_text.signed,
        mebibytes=result_text.format_bytes,
        count=result_text.format_count,
        number=result_text.format_lr,
        visible=visible,
        fixed=_fixed,
        percent=token_sentences.percent,
        words=token_sentences.WORDS,
        factors=FACTORS,
        part=_part,
        points=_points,
        duration=_duration,
        verdict=_verdict,
    )
    return made


def _fixed(value: float | None, digits: int = 3) -> str:
    return result_text.NO_NUMBER if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return result_text.NO_NUMBER
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _part(entry: Mapping[str, Any]) -> str:
    return result_text.interval(entry, "part", "part_lo", "part_hi")


def _points(entry: Mapping[str, Any]) -> str:
    """The change of recall at 10 in points of a hundred, with its interval."""
    scaled = {name: value and 100 * value for name, value in entry.items() if name.startswith("recall_10")}
    return result_text.interval(scaled, "recall_10_delta", "recall_10_lo", "recall_10_hi", 1)


def _verdict(row: Mapping[str, Any]) -> str:
    """CSS class of a change: better, worse, or neither."""
    said = result_text.verdict([row], "delta_lo", "delta_hi")
    return said if said in ("better", "worse") else "none"
