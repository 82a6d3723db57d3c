"""What the sections of a report are made from: the collected tables of one run, or of several that are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peftodyssey.corpora.overlap import WARNED_SHARE, Overlap, sentence
from peftodyssey.store import layout, manifest, parquet, plans, table_record

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
        table = table_record.read(layout.tables_folder(folder, self.scoring), name, f"`peftodyssey report {folder}`")
        rows: list[Row] = table.to_pylist()
        return [{**row, "run": self.runs[folder]} for row in rows] if self.runs[folder] else rows

    def rows_of(self, folder: Path) -> list[Row]:
        """The rows of results of one run."""
        return [row for row in self.rows if row.get("run", "") == self.runs[folder]]

    def cells_of(self, folder: Path) -> dict[CellKey, dict[str, Any]]:
        """The cells of a run's plans."""
        return {(cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder, self.scoring)}

    def remarks(self) -> list[str]:
        """What the store says of the runs beside their tables.

        Other ways of scoring than the one shown; scored text that stands in the training text; bases that predict no
        better than their own average; remarks on how adapters were loaded.
        """
        found = [text for folder in self.runs if (text := _other_scorings(folder, self.scoring))]
        found += [text for folder in self.runs for text in _overlaps(layout.tables_folder(folder, self.scoring))]
        for folder in self.runs:
            for cell in plans.cells(folder, self.scoring):
                found += [*_senseless_bases(folder, cell), *_method_notes(folder, cell)]
        return list(dict.fromkeys(found))


def _other_scorings(folder: Path, shown: str | None) -> str:
    known = plans.scorings(folder)
    shown = shown or next(iter(known), None)
    if len(known) < 2 or shown is None:
        return ""
    others = "; ".join(f"{name}: {text}" for name, text in known.items() if name != shown)
    return (
        f"{folder.name} holds {len(known)} ways of scoring; this is {shown} ({known[shown]}). "
        f"`peftodyssey report DIR --scoring NAME` shows another one: {others}."
    )


def _overlaps(tables: Path) -> Iterator[str]:
    """Texts of whose documents more than WARNED_SHARE stand in another one."""
    if (tables / layout.TEXT_OVERLAP).is_file():
        for row in parquet.read(tables / layout.TEXT_OVERLAP).to_pylist():
            if row["share"] > WARNED_SHARE:
                found = Overlap(row["documents"], row["exact"], row["near"])
                yield f"{sentence(row['text'], row['other'], found)}: losses on them are no losses on new text."


def _senseless_bases(folder: Path, cell: Mapping[str, Any]) -> Iterator[str]:
    """Bases of a cell whose predictions of a text were not those of trained weights."""
    base = cell["coordinates"]
    for text in (cell["scores"]["test"], *cell["scores"]["general"]):
        sense = ((manifest.read(folder / text["before"]) or {}).get("facts") or {}).get("sense")
        if isinstance(sense, Mapping) and not sense["makes_sense"]:
            problem = sense.get("problem", "it predicts no better than its own average; are its weights loaded?")
            yield f"{base['model']} ({base['revision']}) on {text.get('name', base['domain'])}: {problem}."


def _method_notes(folder: Path, cell: Mapping[str, Any]) -> Iterator[str]:
    """Remarks of a cell's manifest on its method, such as an adapter that changes nothing."""
    for note in ((manifest.read(folder / cell["folder"]) or {}).get("facts") or {}).get("method_notes") or ():
        yield f"{cell['coordinates']['label']} on {cell['coordinates']['domain']}: {note}."
