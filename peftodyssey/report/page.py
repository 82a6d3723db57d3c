"""The report as one HTML file that needs no network, from a Jinja template with escaping."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from peftodyssey.display import caveats, counts, result_text
from peftodyssey.display.chart_style import Figure, unique
from peftodyssey.display.result_text import NO_NUMBER, Row, format_lr, method_name, text_name
from peftodyssey.display.section import Section
from peftodyssey.display.token_text import visible
from peftodyssey.report import answers
from peftodyssey.report.page_data import to_json
from peftodyssey.report.tradeoff import plot_specification
from peftodyssey.store import atomic

TEMPLATE = "page.html.j2"
SCRIPTS = ("core", "grid", "words", "reader", "start")  # in this order
CONTRAST, PICTURE = "contrast", "tradeoff"  # the section and the figure that the page opens with
NO_VERDICT_YET = "There is no verdict between the methods here yet: their differences may be chance."
SAID_WORDS = 5  # of each list, in the sentence on words
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
    folders: Sequence[str] = ("DIR",)  # names of the output directories, for commands
    question: str = ""
    facts: Sequence[Mapping[str, str]] = ()  # of each run, by name
    payload: Mapping[str, Any] = field(default_factory=lambda: {"cells": [], "sums": [], "words": {}, "texts": []})
    refresh_s: int | None = None  # seconds after which the page loads itself again

    @property
    def shown(self) -> list[Section]:
        """The sections that say something, in the order of the page."""
        shown = [section for section in self.sections if section.is_shown]
        return sorted(shown, key=lambda section: section.place == "end")

    @property
    def measured(self) -> list[Section]:
        """Those that show a measurement."""
        return [section for section in self.shown if section.is_measured]

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
    scripts = {name: Markup(text) for name, text in page_scripts().items()}  # files of this package
    found = answers.answers(data.rows)
    contrast = next((section for section in data.measured if section.name == CONTRAST), None)
    return (
        _environment(data.shown)
        .get_template(TEMPLATE)
        .render(
            data=data,
            question=data.question or ", ".join(data.recipes),
            answers=found,
            sure=_sure([answer.place for answer in found], contrast.statements if contrast else ()),
            facts=data.facts,
            fact_names=unique(name for one in data.facts for name in one if name != "run"),
            folders=" ".join(data.folders),
            limits=[*data.limits, *caveats.caveats(data.rows)],
            notes=notes(data),
            measured=data.measured,
            unmeasured=[section for section in data.shown if not section.is_measured],
            picture=next((figure for figure in data.figures if figure.name == PICTURE), None),
            part=PART,
            words_said=_words_said(data),
            has_words=bool(data.payload["words"]),
            has_reader=bool(data.payload["texts"]),
            drawn={name: Markup(svg) for name, svg in data.drawn.items()},  # drawn by Vega, which escapes its text
            several_runs=any(row.get("run") for row in data.rows),
            css=Markup(_file("page.css")),
            scripts=scripts,
            hashes=Markup(" ".join(f"'sha256-{_sha256(text)}'" for text in scripts.values())),
            payload=Markup(to_json({**data.payload, "plot": plot_specification()})),  # it escapes what HTML reads
        )
    )


def _sure(places: Sequence[str], said: Sequence[str]) -> dict[str, list[str]]:
    """The first statements on differences of each place, and under an empty name the one on all of them."""
    sure = {place: [text[len(place) + 2 :] for text in said if text.startswith(f"{place}: ")][:2] for place in places}
    sure = {place: [text[:1].upper() + text[1:] for text in texts] for place, texts in sure.items()}
    if said:
        sure = {place: texts or [NO_VERDICT_YET] for place, texts in sure.items()}
    return sure | {"": [text for text in said if text.startswith(("No two methods", "Not comparable"))][:1]}


def _words_said(data: ReportData) -> str:
    """The words that the first cell with words changed most on the text adapted to and on general text."""
    for cell, splits in data.payload["words"].items():
        row = data.rows[int(cell)]
        said = []
        for split, place in (("test", text_name(row)), ("general", "general text")):
            lists = splits.get(split, {"worse": [], "better": []})
            for direction, words in lists.items():
                named = [f"“{visible(word[0])}”" for word in words if word[0].strip()][:SAID_WORDS]
                if named:
                    said.append(f"on {place} most got {direction} on {', '.join(named)}")
        if said:
            return f"{method_name(row)} at {format_lr(row['lr'])}, seed {row['seed']}: {'; '.join(said)}."
    return ""


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
    environment.filters["minus"] = minus
    environment.globals.update(
        base_name=result_text.base_name,
        method_name=result_text.method_name,
        text_name=result_text.text_name,
        signed=result_text.signed,
        format_bytes=counts.format_bytes,
        format_count=counts.format_count,
        format_lr=result_text.format_lr,
        fixed=_fixed,
        duration=_duration,
    )
    return environment


def minus(text: object) -> str:
    """Text whose negative numbers have the minus sign of print instead of a hyphen."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", str(text))


@functools.cache
def page_scripts() -> dict[str, str]:
    """The scripts of the page: the theme, before anything is drawn; Vega, with its interpreter; the page's own."""
    import vl_convert

    parts = "\n".join(_file(f"{name}.js") for name in SCRIPTS)
    vega = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub has no default
    assert "</script" not in vega.lower(), "the bundle can stand in an element"
    page = f'"use strict";\n{parts}'
    return {"theme": _file("theme.js"), "vega": f"(() => {{{vega}\n}})();", "page": f"(() => {{{page}}})();"}


def _file(name: str) -> str:
    return (files("peftodyssey.report") / "templates" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _fixed(value: float | None, digits: int = 3) -> str:
    return NO_NUMBER if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NO_NUMBER
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.1f} {unit}"
