"""The documents that the token reader shows, and the losses of their tokens under each cell.

Losses are rounded to a thousandth of a nat, as they are printed. Where all documents would make the page too large,
each text has those whose loss rose most and fell most per token, in turn, by the mean over the cells shown.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.display.sources import ReportSources
from peftodyssey.display.token_text import Text, text_reader
from peftodyssey.store import parquet
from peftodyssey.store.query import texts as scored_texts
from peftodyssey.store.stored_run import nll_column

MAX_BYTES = 3_000_000  # of losses and ranks, before base64
BYTES_PER_TOKEN = 4  # of one column: loss and rank, uint16 each
MAX_DOCUMENT_TOKENS = 3000  # of one document; the rest is left out, and the reader says so
CONTEXT_TOKENS = 14  # on either side of an example
MISSING = 65535
SPLITS = ("test", "general")

__all__ = ["context", "text_reader", "texts"]


@dataclass
class ScoredText:
    """One index, with the columns that score it: bases by folder, and cells."""

    folder: Path  # of the run
    index: str
    name: str
    split: str
    before: dict[str, int] = field(default_factory=dict)  # folder of the base's column -> its number
    cells: dict[int, tuple[int, str]] = field(
        default_factory=dict
    )  # cell -> (number of its base, folder of its column)


def encoded(values: np.ndarray) -> str:
    """Integers as base64 of their bytes."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def context(text: Text, document: int, position: int) -> list[str]:
    """What stands before a word of a document, the word that holds the token at `position`, and what follows."""
    rows = np.flatnonzero(text.document == document)
    at = rows[int(np.flatnonzero(text.position[rows] == position)[0])]
    first, last = max(rows[0], at - CONTEXT_TOKENS), min(rows[-1], at + CONTEXT_TOKENS)
    before, word, after = "".join(text.pieces[first:at]), text.pieces[at], "".join(text.pieces[at + 1 : last + 1])
    start = len(before) - _letters(before[::-1]) if word[:1].isalnum() else len(before)
    end = _letters(after) if word[-1:].isalnum() else 0
    return [before[:start], before[start:] + word + after[:end], after[end:]]


def _letters(text: str) -> int:
    """How many letters and digits `text` begins with."""
    return next((number for number, character in enumerate(text) if not character.isalnum()), len(text))


def texts(
    sources: ReportSources,
    number: Mapping[tuple[str, str, str], int],
    shown: set[tuple[str, str, str]],
    text_of: Mapping[Path, Callable[[str], Text]],
) -> list[dict[str, Any]]:
    """The scored texts of the cells shown, each with its documents and their columns."""
    found = [text for folder in sources.runs for text in _scored(sources, folder, number, shown).values()]
    columns = sum(len(text.before) + len(text.cells) for text in found)
    tokens = MAX_BYTES // (BYTES_PER_TOKEN * max(1, columns))
    return [_text(scored, text_of[scored.folder](scored.index), tokens) for scored in found]


def _scored(
    sources: ReportSources, folder: Path, number: Mapping[Any, int], shown: set[Any]
) -> dict[tuple[str, str], ScoredText]:
    found: dict[tuple[str, str], ScoredText] = {}
    label = sources.runs[folder]
    for (cell, recipe), plan in sources.cells_of(folder).items():
        if (label, recipe, cell) not in shown:
            continue
        for split, name, score in scored_texts(plan):
            if split in SPLITS:
                text = found.setdefault((split, score["index"]), ScoredText(folder, score["index"], name, split))
                base = text.before.setdefault(score["before"], len(text.before))
                text.cells[number[label, recipe, cell]] = (base, score["after"])
    return found


def _text(scored: ScoredText, text: Text, tokens: int) -> dict[str, Any]:
    losses = {name: nll_column(scored.folder / name) for name in scored.before}
    changes = [nll_column(scored.folder / name) - list(losses.values())[base] for base, name in scored.cells.values()]
    chosen, are_all = _documents(text, np.mean(changes, axis=0), tokens)
    rows = [np.flatnonzero(text.document == document)[:MAX_DOCUMENT_TOKENS] for document in chosen]
    every = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    columns = {"before": [_column(scored.folder / name, every) for name in scored.before]}
    return {
        "index": scored.index,
        "run": scored.folder.resolve().name,
        "name": scored.name,
        "split": scored.split,
        "all": are_all,
        "documents": [
            _document(text, document, row, int((text.document == document).sum()))
            for document, row in zip(chosen, rows, strict=True)
        ],
        "classes": TOKEN_CLASSES,
        **columns,
        "after": {cell: [base, *_column(scored.folder / name, every)] for cell, (base, name) in scored.cells.items()},
    }


def _documents(text: Text, change: np.ndarray, tokens: int) -> tuple[list[int], bool]:
    """Numbers of the documents shown, and whether they are all."""
    numbers, inverse = np.unique(text.document, return_inverse=True)
    length = np.bincount(inverse)
    if length.sum() <= tokens and length.max(initial=0) <= MAX_DOCUMENT_TOKENS:
        return [int(n) for n in numbers], True
    scored = ~np.isnan(change)
    sums = np.bincount(inverse[scored], change[scored], len(numbers))
    mean = sums / np.maximum(1, np.bincount(inverse[scored], minlength=len(numbers)))
    order = np.argsort(-mean, kind="stable")
    in_turn = [i for pair in zip(order, order[::-1], strict=True) for i in pair]
    chosen: list[int] = []
    left = tokens
    for i in dict.fromkeys(in_turn):
        left -= min(int(length[i]), MAX_DOCUMENT_TOKENS)
        if left < 0 and chosen:
            break
        chosen.append(int(numbers[i]))
    return sorted(chosen), False


def _document(text: Text, document: int, rows: np.ndarray, tokens: int) -> dict[str, Any]:
    pieces = [text.pieces[row] for row in rows]
    return {
        "n": document,
        "id": str(text.document_id[document]),
        "pieces": pieces,
        "first": int(text.position[rows[0]]) if len(rows) else 0,
        "classes": "".join(chr(97 + int(kind)) for kind in text.token_class[rows]),
        "left_out": tokens - len(rows),
    }


def _column(folder: Path, rows: np.ndarray) -> list[str]:
    """Losses in thousandths of a nat, and ranks, of these rows, as base64."""
    nll, rank = parquet.read_nll(folder)
    milli = np.where(np.isnan(nll), MISSING, np.minimum(np.round(nll.astype(np.float64) * 1000), MISSING - 1))
    ranks = np.where(rank < 0, MISSING, np.minimum(rank, MISSING - 1))
    return [encoded(column[rows].astype("<u2")) for column in (milli, ranks)]
