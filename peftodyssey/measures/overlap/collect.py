"""Collects `text_overlap.parquet` from the documents of the indexes: what was trained on and what was scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from peftodyssey.corpora.index import indexed_texts
from peftodyssey.corpora.overlap import Overlap, Reference, first_characters
from peftodyssey.store import layout, manifest
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun

COMPARED_CHARACTERS = 20_000_000  # of each text; about 4M tokens


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """A row for each pair of texts, once a recipe; pairs whose indexes are not there yet are left out."""
    pairs: dict[tuple[str, str, str], tuple[str, str]] = {}  # (recipe, index, other's index) -> (domain, recipe)
    for cell in run.done:
        for text, other in _pairs(cell):
            pairs.setdefault((cell["recipe"], text, other), (cell["coordinates"]["domain"], cell["recipe"]))
    found: list[Row] = []
    for other in dict.fromkeys(other for _, _, other in pairs):
        texts = [(text, *pairs[key]) for key in pairs if key[2] == other for text in (key[1],)]
        there = [entry for entry in texts if _is_there(run, entry[0])]
        if not there or not _is_there(run, other):
            continue
        reference = Reference(_texts(run.folder / other))
        found += [
            _row(run, domain, recipe, text, other, reference.overlap(_texts(run.folder / text)))
            for text, domain, recipe in there
        ]
    return Collected({layout.TEXT_OVERLAP: found})


def _pairs(cell: Cell) -> Iterator[tuple[str, str]]:
    """(index, index in which its documents are looked for) of one cell."""
    test, valid = cell["scores"]["test"], cell["scores"].get("valid")
    if train := cell.get("train_index"):
        texts = (test, valid, *(cell["scores"].get("general") or ()))
        yield from ((text["index"], train) for text in texts if text)
    if valid:
        yield test["index"], valid["index"]


def _is_there(run: StoredRun, folder: str) -> bool:
    return run.is_complete(folder) and (run.folder / folder / layout.DOCUMENTS).is_file()


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    return first_characters(indexed_texts(folder), COMPARED_CHARACTERS)


def _row(run: StoredRun, domain: str, recipe: str, text: str, other: str, found: Overlap) -> Row:
    return {
        "recipe": recipe,
        "domain": domain,
        "text": _name(run, text),
        "other": _name(run, other),
        "documents": found.documents,
        "exact": found.exact,
        "near": found.near,
        "share": found.share,
    }


def _name(run: StoredRun, folder: str) -> str:
    """Name and split of an index."""
    facts = (manifest.read(run.folder / folder) or {}).get("facts") or {}
    return f"{facts.get('name', folder)}, {facts.get('split', '')}".removesuffix(", ")
