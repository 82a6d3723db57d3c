"""`similarity.parquet`: similarity of each text to the pretraining text.

Every text of a recipe and model is compared on as many chunks: those of the text that has the fewest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.stats import chunk_sampling, overlap
from peftodyssey.stats.degradation import bits_per_byte
from peftodyssey.stats.similarity import Sample, reference, state_distances, token_overlap
from peftodyssey.store import layout, manifest, parquet, states, tables

Row = dict[str, Any]
COLUMNS = ("document", "token", "bytes")  # of an index


@dataclass(frozen=True)
class Chunked:
    """The chunks of one text, or of one half of the sample, and their mean states under one base."""

    index: str  # folder of the text
    half: int  # 0: the text is not parted
    row: np.ndarray  # int64 [chunks], where each begins
    sample: Sample

    @property
    def rows(self) -> np.ndarray:
        """Rows of the index, [chunks, chunk_tokens]."""
        return self.row[:, None] + np.arange(self.sample.token.shape[1])


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Write the table of those plans' `cells` whose recipes measure similarity; returns its rows."""
    bases: dict[tuple[str, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for cell in cells:
        if asked := cell.get("similarity"):
            where = cell["coordinates"]
            bases.setdefault((cell["recipe"], asked["reference"]), {})[where["domain"], where["newline"]] = cell
    index_of = functools.cache(functools.partial(_index, folder))
    shared = _shared(index_of)
    rows = [row for texts in bases.values() for row in _of_base(folder, list(texts.values()), index_of, shared)]
    parquet.write_rows(folder / layout.SIMILARITY, rows, tables.SIMILARITY)
    return rows


def _of_base(
    folder: Path, cells: Sequence[Mapping[str, Any]], index_of: Callable[[str], Any], shared: Callable[..., Row]
) -> list[Row]:
    """Rows of one recipe's texts under one base, the floor last; texts whose states are not there yet are left out."""
    asked = cells[0]["similarity"]
    cells = [cell for cell in cells if manifest.read(folder / cell["similarity"]["text"])]
    done = manifest.read(folder / asked["reference"])
    if not cells or not done:
        return []
    length = asked["chunk_tokens"]
    held, floor = (
        _chunked(folder, asked["reference"], asked["reference_index"], half, length, index_of) for half in (1, 2)
    )
    texts = [
        _chunked(folder, cell["similarity"]["text"], cell["similarity"]["index"], 0, length, index_of) for cell in cells
    ]
    n = min(len(text.row) for text in (held, floor, *texts))
    held, floor, *texts = (_first(text, n) for text in (held, floor, *texts))
    base = reference(held.sample, floor.sample)
    name = (manifest.read(folder / asked["reference_index"]) or {})["facts"]["name"]
    said = [
        *(
            {
                "kind": "text",
                "group": cell["similarity"]["group"],
                "base_bpb": _bits(folder, cell, text, index_of),
                **{key: cell["coordinates"][key] for key in ("domain", "newline")},
            }
            for cell, text in zip(cells, texts, strict=True)
        ),
        {"kind": "floor", "domain": name, "newline": "keep"},
    ]
    told = {key: cells[0]["coordinates"][key] for key in ("model", "revision", "pretrain_tokens")}
    told |= {"recipe": cells[0]["recipe"], "layer": asked["layer"], "chunks": n, "chunk_tokens": length}
    return [
        {
            **told,
            **own,
            "documents": len(np.unique(text.sample.document)),
            **state_distances(text.sample, base),
            **shared(text, held),
        }
        for own, text in zip(said, (*texts, floor), strict=True)
    ]


def _chunked(folder: Path, name: str, index: str, half: int, length: int, index_of: Callable[[str], Any]) -> Chunked:
    hidden, row, halves = states.read(folder / name)
    hidden, row = hidden[halves == half], row[halves == half]
    table = index_of(index)
    return Chunked(
        index, half, row, Sample(hidden, chunk_sampling.chunk_ids(table["token"], row, length), table["document"][row])
    )


def _first(text: Chunked, n: int) -> Chunked:
    return Chunked(text.index, text.half, text.row[:n], text.sample.first(n))


def _shared(index_of: Callable[[str], Any]) -> Callable[[Chunked, Chunked], Row]:
    """A function that compares tokens; bases with one tokenizer read the same chunks, so each pair is compared once."""
    known: dict[tuple[Any, ...], Row] = {}

    @functools.cache
    def grams(index: str) -> overlap.NGrams:
        table = index_of(index)
        starts = np.append(np.flatnonzero(np.diff(table["document"], prepend=-1)), len(table["document"]))
        return overlap.ngrams(table["token"], starts, chunk_sampling.random_half(starts, chunk_sampling.SEED))

    def compare(text: Chunked, held: Chunked) -> Row:
        key = (text.index, text.half, held.index, text.sample.token.shape)
        if key not in known:
            known[key] = dict(token_overlap(text.sample.token, held.sample.token, grams(held.index)))
        return known[key]

    return compare


def _bits(folder: Path, cell: Mapping[str, Any], text: Chunked, index_of: Callable[[str], Any]) -> float | None:
    """Bits per byte of the base on the chunks' scored tokens; None where its column is not there yet."""
    column = folder / cell["scores"]["test"]["before"]
    if manifest.read(column) is None:
        return None
    rows = text.rows.ravel()
    nats = parquet.read_nll(column)[0][rows]
    scored = ~np.isnan(nats)
    return bits_per_byte(nats[scored], int(index_of(text.index)["bytes"][rows][scored].sum())) if scored.any() else None


def _index(folder: Path, name: str) -> dict[str, np.ndarray]:
    table = parquet.read(folder / name / layout.INDEX)
    return {column: table[column].to_numpy() for column in COLUMNS}
