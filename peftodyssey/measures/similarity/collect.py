"""Collects `similarity.parquet`: similarity of each text to the pretraining text.

All texts of a recipe and base are compared on equally many chunks: as many as the shortest text has.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from peftodyssey.measures.similarity import chunk_sampling, collect_correlation, overlap, states
from peftodyssey.measures.similarity.compute import Sample, reference, state_distances, token_overlap
from peftodyssey.measures.similarity.table import CORRELATION_TABLE, TABLE
from peftodyssey.stats.degradation import bits_per_byte
from peftodyssey.store import layout, manifest
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun
from peftodyssey.store.tables import sort_key

CellEntry = tuple[Cell, Mapping[str, Any]]  # a cell, and what its plan says of similarity


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

    def __init__(self, run: StoredRun) -> None:
        self._run = run
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
        document, token = (self._run.read(index, column) for column in ("document", "token"))
        starts = np.append(np.flatnonzero(np.diff(document, prepend=-1)), len(document))
        return overlap.ngrams(token, starts, chunk_sampling.random_half(starts, chunk_sampling.SEED))


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of each text, and the correlations of the change with them."""
    similar = rows(run)
    results = sorted(tables[layout.RESULTS], key=sort_key)
    return Collected({TABLE: similar, CORRELATION_TABLE: collect_correlation.rows(results, similar)})


def rows(run: StoredRun) -> list[Row]:
    """The rows of those cells, finished or not, whose recipes measure similarity: each text of a base once."""
    bases: dict[tuple[str, str], dict[tuple[str, str], CellEntry]] = {}
    for cell, entry in run.entries("similarity"):
        texts = bases.setdefault((cell["recipe"], entry["reference"]), {})
        texts[cell["coordinates"]["domain"], cell["coordinates"]["newline"]] = cell, entry
    overlaps = TokenOverlaps(run)
    return [row for texts in bases.values() for row in _of_base(run, list(texts.values()), overlaps)]


def _of_base(run: StoredRun, asked: Sequence[CellEntry], overlaps: TokenOverlaps) -> list[Row]:
    """Rows of one recipe's texts under one base, the floor last; texts without finished states are left out."""
    measured = asked[0][1]
    asked = [(cell, entry) for cell, entry in asked if run.is_complete(entry["text"])]
    if not asked or not run.is_complete(measured["reference"]):
        return []

    def chunks(states_folder: str, index: str, half: int) -> Chunks:
        return _chunks(run, states_folder, index, half, measured["chunk_tokens"])

    samples = [
        *(chunks(measured["reference"], measured["reference_index"], half) for half in (1, 2)),
        *(chunks(entry["text"], entry["index"], 0) for _, entry in asked),
    ]
    n = min(len(sample.row) for sample in samples)
    first_half, second_half, *texts = (sample.first(n) for sample in samples)
    base = reference(first_half.sample, second_half.sample)
    sample_name = (manifest.read(run.folder / measured["reference_index"]) or {})["facts"]["name"]
    first_cell = asked[0][0]
    coordinates = {key: first_cell["coordinates"][key] for key in ("model", "revision", "pretrain_tokens")}
    coordinates |= {"recipe": first_cell["recipe"], "layer": measured["layer"], "chunks": n}
    coordinates |= {"chunk_tokens": measured["chunk_tokens"]}
    own_columns = [
        *(
            {
                "kind": "text",
                "group": entry["group"],
                "base_bpb": _base_bpb(run, cell, text),
                **{key: cell["coordinates"][key] for key in ("domain", "newline")},
            }
            for (cell, entry), text in zip(asked, texts, strict=True)
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


def _chunks(run: StoredRun, name: str, index: str, half: int, chunk_tokens: int) -> Chunks:
    hidden, row, halves = states.read(run.folder / name)
    hidden, row = hidden[halves == half], row[halves == half]
    ids = chunk_sampling.chunk_ids(run.read(index, "token"), row, chunk_tokens)
    return Chunks(index, half, row, Sample(hidden, ids, run.read(index, "document")[row]))


def _base_bpb(run: StoredRun, cell: Cell, text: Chunks) -> float | None:
    """Bits per byte of the base on the chunks' scored tokens; None if its column does not exist yet."""
    column = cell["scores"]["test"]["before"]
    if not run.is_complete(column):
        return None
    rows = (text.row[:, None] + np.arange(text.sample.token.shape[1])).ravel()
    nats = run.read(column, "nll_nats")[rows]
    scored = ~np.isnan(nats)
    n_bytes = int(run.read(text.index, "bytes")[rows][scored].sum())
    return bits_per_byte(nats[scored], n_bytes) if scored.any() else None
