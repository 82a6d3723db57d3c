"""The report with what is done beside it: kept current while a run goes on, packed to be passed on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from peftodyssey.report import pack
from peftodyssey.report.build import ReportMeasure, build
from peftodyssey.report.watch import watch as watch_runs
from peftodyssey.store import plans


def publish(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    measures: Sequence[ReportMeasure],
    scoring: str | None = None,
    with_text: bool = True,
    zip: str | Path | None = None,
    watch: bool = False,
) -> Path:
    """`build`; with `watch` again and again until the runs are over. `zip` is the file to pack it in."""
    make = partial(build, list(folders), out, measures=measures, scoring=scoring, with_text=with_text)
    page = watch_runs(folders, lambda seconds: make(refresh_s=seconds)) if watch else make()
    if zip is not None:
        name = plans.scoring_name(folders[0], scoring) if scoring else None
        pack.pack(folders, page, Path(zip), with_text=with_text, scoring=name)
    return page
