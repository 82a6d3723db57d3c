"""Collects `similarity.parquet`: similarity of each text to the pretraining text.

All texts of a recipe and base are compared on equally many chunks: as many as the shortest text has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.stats import chunk_sampling, overlap
from peftodyssey.stats.degradation import bits_per_byte
from peftodyssey.stats.similarity import Sample, reference, state_distances, token_overlap
from peftodyssey.store import layout, manifest, parquet, states, tables

Row = dict[str, Any]
Index = Mapping[str, np.ndarray]  # columns of a token index
INDEX_COLUMNS = ("document", "token", "bytes")


@dataclass(frozen=True)
class Chunks:
    """The chunks of one text, or of one half of the pretraining sample, and their mean states under one base."""

    index: str  # folder of the text
    half: int  # 0: the text is not divided
    row: np.ndarray  # int64 [chunks], where each begins
    sample: Sample

    def first(self, n: int) -> Chunks:
        """The first `n` chunks, which are a sample as well."""
        return replace(self, row=self.row[:n], sample=self.sample.first(n))


class TokenOverlaps:
    """Overlap of chunks' tokens; bases with one tokenizer read the same chunks, so each pair is compared once."""

    def __init__(self, index_of: Callable[[str], Index]) -> None:
        self._index_of = index_of
        self._ngrams = functools.cache(self._reference_ngrams)
        self._known: dict[tuple[Any, ...], Row] = {}

    def compare(self, text: Chunks, other: Chunks) -> Row:
        """Columns of `text` compared with the reference half `other`."""
        key = (text.index, text.half, other.index, text.sample.token.shape)
        if key not in self._known:
            ngrams = self._ngrams(other.index)
            self._known[key] = dict(token_overlap(text.sample.token, other.sample.token, ngrams))
        return self._known[key]

    def _reference_ngrams(self, index: str) -> overlap.NGrams:
        table = self._index_of(index)
        starts = np.append(np.flatnonzero(np.diff(table["document"], prepend=-1)), len(table["document"]))
        return overlap.ngrams(table["token"], starts, chunk_sampling.random_half(starts, chunk_sampling.SEED))


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Write the table of those plans' `cells` whose recipes measure similarity; returns its rows."""
    bases: dict[tuple[str, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for cell in cells:
        if measured := cell.get("similarity"):
            texts = bases.setdefault((cell["recipe"], measured["reference"]), {})
            texts[cell["coordinates"]["domain"], cell["coordinates"]["newline"]] = cell
    index_of = functools.cache(functools.partial(_index, folder))
    overlaps = TokenOverlaps(index_of)
    rows = [row for texts in bases.values() for row in _of_base(folder, list(texts.values()), index_of, overlaps)]
    parquet.write_rows(folder / layout.SIMILARITY, rows, tables.SIMILARITY)
    return rows


def _of_base(
    folder: Path, cells: Sequence[Mapping[str, Any]], index_of: Callable[[str], Index], overlaps: TokenOverlaps
) -> list[Row]:
    """Rows of one recipe's texts under one base, the floor last; texts without finished states are left out."""
    measured = cells[0]["similarity"]
    cells = [cell for cell in cells if manifest.read(folder / cell["similarity"]["text"])]
    if not cells or not manifest.read(folder / measured["reference"]):
        return []

    def chunks(states_folder: str, index: str, half: int) -> Chunks:
        return _chunks(folder, states_folder, index, half, measured["chunk_tokens"], index_of)

    samples = [
        *(chunks(measured["reference"], measured["reference_index"], half) for half in (1, 2)),
        *(chunks(cell["similarity"]["text"], cell["similarity"]["index"], 0) for cell in cells),
    ]
    n = min(len(sample.row) for sample in samples)
    first_half, second_half, *texts = (sample.first(n) for sample in samples)
    base = reference(first_half.sample, second_half.sample)
    sample_name = (manifest.read(folder / measured["reference_index"]) or {})["facts"]["name"]
    coordinates = {key: cells[0]["coordinates"][key] for key in ("model", "revision", "pretrain_tokens")}
    coordinates |= {"recipe": cells[0]["recipe"], "layer": measured["layer"], "chunks": n}
    coordinates |= {"chunk_tokens": measured["chunk_tokens"]}
    own_columns = [
        *(
            {
                "kind": "text",
                "group": cell["similarity"]["group"],
                "base_bpb": _base_bpb(folder, cell, text, index_of),
                **{key: cell["coordinates"][key] for key in ("domain", "newline")},
            }
            for cell, text in zip(cells, texts, strict=True)
        ),
        {"kind": "floor", "domain": sample_name, "newline": "keep"},
    ]
    return [
        {
            **coordinates,
            **own,
            "documents": len(np.unique(text.sample.document)),
            **state_distances(text.sample, base),
            **overlaps.compare(text, first_half),
        }
        for own, text in zip(own_columns, (*texts, second_half), strict=True)
    ]


def _chunks(
    folder: Path, name: str, index: str, half: int, chunk_tokens: int, index_of: Callable[[str], Index]
) -> Chunks:
    hidden, row, halves = states.read(folder / name)
    hidden, row = hidden[halves == half], row[halves == half]
    table = index_of(index)
    ids = chunk_sampling.chunk_ids(table["token"], row, chunk_tokens)
    return Chunks(index, half, row, Sample(hidden, ids, table["document"][row]))


def _base_bpb(folder: Path, cell: Mapping[str, Any], text: Chunks, index_of: Callable[[str], Index]) -> float | None:
    """Bits per byte of the base on the chunks' scored tokens; None if its column does not exist yet."""
    column = folder / cell["scores"]["test"]["before"]
    if manifest.read(column) is None:
        return None
    rows = (text.row[:, None] + np.arange(text.sample.token.shape[1])).ravel()
    nats = parquet.read_nll(column)[0][rows]
    scored = ~np.isnan(nats)
    n_bytes = int(index_of(text.index)["bytes"][rows][scored].sum())
    return bits_per_byte(nats[scored], n_bytes) if scored.any() else None


def _index(folder: Path, name: str) -> Index:
    table = parquet.read(folder / name / layout.INDEX)
    return {column: table[column].to_numpy() for column in INDEX_COLUMNS}
