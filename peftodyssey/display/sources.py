"""What the sections of a report are made from: the collected tables of one run, or of several that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peftodyssey.store import layout, parquet, plans

Row = dict[str, Any]
CellKey = tuple[str, str]  # (cell, recipe)


@dataclass(frozen=True)
class ReportSources:
    """`runs`: their folders, each with its label, which is empty where there is one run only."""

    runs: Mapping[Path, str]
    scoring: str | None = None  # None: the newest of each

    @classmethod
    def of(cls, folders: Sequence[Path], scoring: str | None = None) -> ReportSources:
        """Runs labelled by their folders' names, or by their paths where two have the same name."""
        if len(folders) == 1:
            return cls({folders[0]: ""}, scoring)
        names = [folder.resolve().name for folder in folders]
        unique = len(set(names)) == len(names)
        labels = {folder: name if unique else str(folder) for folder, name in zip(folders, names, strict=True)}
        return cls(labels, scoring)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of results."""
        return self.table(layout.RESULTS)

    def table(self, name: str) -> list[Row]:
        """The rows of one collected table; where there are several runs each row has its `run`."""
        return [row for folder in self.runs for row in self.table_of(folder, name)]

    def table_of(self, folder: Path, name: str) -> list[Row]:
        """The rows of one run."""
        rows: list[Row] = parquet.read(layout.tables_folder(folder, self.scoring) / name).to_pylist()
        return [{**row, "run": self.runs[folder]} for row in rows] if self.runs[folder] else rows

    def rows_of(self, folder: Path) -> list[Row]:
        """The rows of results of one run."""
        return [row for row in self.rows if row.get("run", "") == self.runs[folder]]

    def cells_of(self, folder: Path) -> dict[CellKey, dict[str, Any]]:
        """The cells of a run's plans."""
        return {(cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder, self.scoring)}

    def other_scorings(self) -> list[str]:
        """A sentence for each run that holds other ways of scoring than the one shown."""
        return [text for folder in self.runs if (text := _other_scorings(folder, self.scoring))]


def _other_scorings(folder: Path, shown: str | None) -> str:
    known = plans.scorings(folder)
    shown = shown or next(iter(known), None)
    if len(known) < 2 or shown is None:
        return ""
    others = "; ".join(f"{name}: {text}" for name, text in known.items() if name != shown)
    return (
        f"{folder.name} holds {len(known)} ways of scoring; this is {shown} ({known[shown]}). "
        f"`peftodyssey report {folder} --scoring NAME` shows another one: {others}."
    )
