"""Tables of each cell's change on test: token breakdown, concentration, terms, ranks.

Computed again from indexes and NLL columns, of the finished cells whose recipe measures `tokens`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.report import collect_terms
from peftodyssey.report.token_text import Text, reader
from peftodyssey.stats import bootstrap, concentration, token_breakdown, token_groups
from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Write the token tables of `cells`, finished entries of plans, in their order."""
    text_of = reader(folder)
    terms = collect_terms.of_domains(folder, cells)
    counted = functools.cache(functools.partial(_counts, folder))
    ledgers: list[Row] = []
    concentrations: list[Row] = []
    ranks: list[Row] = []
    for cell in cells:
        paths = cell["scores"]["test"]
        text, before, after = text_of(paths["index"]), *(column(folder / paths[key]) for key in ("before", "after"))
        mark = {"cell": cell["cell"], "recipe": cell["recipe"]}
        is_term = collect_terms.in_text(terms[collect_terms.key(cell)], text)
        types = list(_types(text, before, after))
        parts = partitions(text, before, is_term, counted(cell.get("sample_index")))
        ledgers += [{**mark, **row} for row in (*_groups(text, before, after, parts), *types)]
        units = {"types": [row["sum_nats"] for row in types], "tokens": _scored(after - before)}
        concentrations += [{**mark, **_concentration(unit, changes)} for unit, changes in units.items()]
        ranks += [{**mark, **row} for row in collect_terms.ranks(folder, paths, text, is_term)]
    collect_terms.write(folder, terms)
    parquet.write_rows(folder / layout.TOKEN_RANKS, ranks, tables.TOKEN_RANKS)
    parquet.write_rows(folder / layout.TOKEN_BREAKDOWN, ledgers, tables.TOKEN_BREAKDOWN)
    parquet.write_rows(folder / layout.CONCENTRATION, concentrations, tables.CONCENTRATION)


def column(folder: Path) -> np.ndarray:
    """The NLL of one scored column, float64 [rows] nats; NaN where not scored."""
    return parquet.read_nll(folder)[0].astype(np.float64)


def partitions(
    text: Text, before: np.ndarray, is_term: np.ndarray | None, counts: np.ndarray | None
) -> list[token_groups.Partition]:
    """Every factor that the change is parted by.

    `is_term` bool [rows], None where no terms are known; `counts` int [vocabulary] of the pretraining sample, None
    where there is none.
    """
    return [
        token_groups.by_class(text.token_class, is_term),
        token_groups.by_position(text.position),
        *([] if counts is None else [token_groups.by_frequency(text.token, counts)]),
        token_groups.by_surprisal(before),
    ]


def _groups(
    text: Text, before: np.ndarray, after: np.ndarray, parts: Sequence[token_groups.Partition]
) -> Iterator[Row]:
    """Ledger rows of the factors; groups without a scored token are left out."""
    for part in parts:
        rows = token_breakdown.by_group(before, after, part.label, part.names)
        found = bootstrap.group_intervals(after - before, text.document, part.label, len(part.names))
        for place, (row, interval) in enumerate(zip(rows, found, strict=True)):
            if row.tokens:
                yield {
                    "factor": part.factor,
                    "place": place,
                    "name": row.name,
                    "tokens": row.tokens,
                    "nll_before": row.mean_before,
                    "nll_after": row.mean_after,
                    "sum_nats": row.sum_nats,
                    "share": _finite(row.share),
                    "part": interval.estimate,
                    "part_lo": interval.lower,
                    "part_hi": interval.upper,
                }


def _counts(folder: Path, sample: str | None) -> np.ndarray | None:
    """How often each token occurs in an index of pretraining text, int [vocabulary]; None where it is not there."""
    if sample is None or manifest.read(folder / sample) is None:
        return None
    return np.bincount(parquet.read(folder / sample / layout.INDEX)["token"].to_numpy())


def _types(text: Text, before: np.ndarray, after: np.ndarray) -> Iterator[Row]:
    """Ledger rows of the token types, the largest rise first."""
    rows = sorted(token_breakdown.by_token(before, after, text.token), key=lambda row: (-row.sum_nats, row.token))
    whole, scored = math.fsum(_scored(after - before)), sum(row.count for row in rows)
    for place, row in enumerate(rows):
        yield {
            "factor": "token",
            "place": place,
            "name": text.spelled[row.token],
            "token": row.token,
            "tokens": row.count,
            "nll_before": row.mean_before,
            "nll_after": row.mean_after,
            "sum_nats": row.sum_nats,
            "share": row.sum_nats / whole if whole else None,
            "part": row.sum_nats / scored,
        }


def _concentration(unit: str, changes: Any) -> Row:
    found = dataclasses.asdict(concentration.concentration(changes))
    return {"unit": unit, **{name: _finite(value) for name, value in found.items()}}


def _scored(delta: np.ndarray) -> np.ndarray:
    return delta[~np.isnan(delta)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
