"""Collects what each cell's change on test consists of: token breakdown, concentration, terms and ranks.

Computed from indexes and NLL columns of the finished cells whose recipe measures `tokens`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peftodyssey.display.token_text import Text, text_reader
from peftodyssey.measures.tokens import collect_terms, concentration, words
from peftodyssey.measures.tokens import compute as token_breakdown
from peftodyssey.measures.tokens import groups as token_groups
from peftodyssey.measures.tokens.table import (
    BREAKDOWN_TABLE,
    CONCENTRATION_TABLE,
    RANKS_TABLE,
    TERMS_TABLE,
    WORDS_TABLE,
)
from peftodyssey.stats import bootstrap
from peftodyssey.stats.degradation import finite
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of the token tables by file name: of the finished cells that were measured, in their order."""
    cells = run.done_with("tokens")
    text_of = text_reader(run.folder)
    terms = collect_terms.of_domains(run, cells)
    pretraining_counts = functools.cache(functools.partial(_token_counts, run))
    breakdowns: list[Row] = []
    concentrations: list[Row] = []
    other_seed = _other_seeds(cells)
    ranks: list[Row] = []
    for cell in cells:
        paths, identity = cell["scores"]["test"], {"cell": cell["cell"], "recipe": cell["recipe"]}
        text, before, after = text_of(paths["index"]), *(run.read(paths[s], "nll_nats") for s in ("before", "after"))
        is_term = collect_terms.in_text(terms[collect_terms.key(cell)], text)
        types = list(_types(text, before, after))
        parts = _partitions(text, before, is_term, pretraining_counts(_sample_index(cell)))
        breakdowns += [{**identity, **row} for row in (*_groups(text, before, after, parts), *types)]
        other = other_seed.get(cell["number"])
        between = None if other is None else run.read(other["scores"]["test"]["after"], "nll_nats") - after
        concentrations += [{**identity, **row} for row in _concentrations(text, after - before, between)]
        ranks += [{**identity, **row} for row in collect_terms.ranks(run, paths, text, is_term)]
    return Collected(
        {
            BREAKDOWN_TABLE: breakdowns,
            CONCENTRATION_TABLE: concentrations,
            TERMS_TABLE: collect_terms.term_rows(terms),
            RANKS_TABLE: ranks,
            WORDS_TABLE: list(words.rows(run, cells, text_of)),
        }
    )


def _sample_index(cell: Cell) -> str | None:
    """The folder of the cell's index of pretraining text, where there is one."""
    folder: str | None = cell.get("measures", {}).get("tokens", {}).get("sample_index")
    return folder


def _partitions(
    text: Text, before: np.ndarray, is_term: np.ndarray | None, pretraining_counts: np.ndarray | None
) -> list[token_groups.Partition]:
    """The factors by which the change is broken down; `pretraining_counts` int [vocabulary] or None."""
    return [
        token_groups.by_class(text.token_class, is_term),
        token_groups.by_position(text.position),
        *([] if pretraining_counts is None else [token_groups.by_frequency(text.token, pretraining_counts)]),
        token_groups.by_surprisal(before),
    ]


def _groups(
    text: Text, before: np.ndarray, after: np.ndarray, partitions: Sequence[token_groups.Partition]
) -> Iterator[Row]:
    """Rows of the factors; groups without a scored token are left out."""
    for partition in partitions:
        groups = token_breakdown.by_group(before, after, partition.label, partition.names)
        parts = bootstrap.group_intervals(after - before, text.document, partition.label, len(partition.names))
        for place, (group, part) in enumerate(zip(groups, parts, strict=True)):
            if group.tokens:
                yield {
                    "factor": partition.factor,
                    "place": place,
                    "name": group.name,
                    "tokens": group.tokens,
                    "nll_before": group.mean_before,
                    "nll_after": group.mean_after,
                    "sum_nats": group.sum_nats,
                    "share": finite(group.share),
                    **part.columns("part"),
                }


def _token_counts(run: StoredRun, sample: str | None) -> np.ndarray | None:
    """Occurrences of each token in an index of pretraining text, int [vocabulary]; None if there is no index."""
    if sample is None or not run.is_complete(sample):
        return None
    return np.bincount(run.read(sample, "token"))


def _types(text: Text, before: np.ndarray, after: np.ndarray) -> Iterator[Row]:
    """Rows of the token types, the largest rise first."""
    types = sorted(token_breakdown.by_token(before, after, text.token), key=lambda t: (-t.sum_nats, t.token))
    total, scored = math.fsum(_scored(after - before)), sum(one.count for one in types)
    for place, one in enumerate(types):
        yield {
            "factor": "token",
            "place": place,
            "name": text.type_text[one.token],
            "token": one.token,
            "tokens": one.count,
            "nll_before": one.mean_before,
            "nll_after": one.mean_after,
            "sum_nats": one.sum_nats,
            "share": one.sum_nats / total if total else None,
            "part": one.sum_nats / scored,
        }


def _other_seeds(cells: Sequence[Cell]) -> dict[int, Cell]:
    """For each cell the one with the next seed that differs in nothing else, by number; none where there is none."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell["recipe"], cell.get("setting"), cell["coordinates"].get("lr"), cell["scores"]["test"]["index"])
        groups.setdefault(key, []).append(cell)
    return {
        cell["number"]: other
        for own in groups.values()
        if len(own) > 1
        for cell, other in zip(own, (*own[1:], own[0]), strict=True)
    }


def _concentrations(text: Text, change: np.ndarray, between_seeds: np.ndarray | None) -> Iterator[Row]:
    """Rows for token types and for single tokens, each with the concentration of what is not a rise of this cell."""
    scored = ~np.isnan(change)
    _, type_of = np.unique(text.token[scored], return_inverse=True)
    for unit in ("types", "tokens"):

        def summed(values: np.ndarray, unit: str = unit) -> np.ndarray:
            return np.bincount(type_of, values) if unit == "types" else values

        own = concentration.concentration(summed(change[scored]))
        nulls = {"fall": -change[scored], "frequency": np.ones(int(scored.sum()))}
        if between_seeds is not None and not np.isnan(between_seeds[scored]).any():
            nulls["seed"] = between_seeds[scored]
        row = {name: finite(value) for name, value in dataclasses.asdict(own).items()}
        for name, values in nulls.items():
            null = concentration.concentration(summed(values))
            row |= {f"{name}_share_for_50pct": finite(null.share_for_50pct), f"{name}_gini": finite(null.gini)}
        yield {"unit": unit, **row}


def _scored(delta: np.ndarray) -> np.ndarray:
    return delta[~np.isnan(delta)]
