"""Collects `ranks.parquet`: every rank of a family compared with the best of the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftodyssey.display.result_text import grouped
from peftodyssey.measures.lora_ranks.compute import MARGIN_NATS, RankVerdict, Trial, rank_verdicts
from peftodyssey.measures.lora_ranks.families import Family, families
from peftodyssey.measures.lora_ranks.table import COORDINATES, SOLO, TABLE
from peftodyssey.store import layout, manifest
from peftodyssey.store.collected import Collected
from peftodyssey.store.stored_run import StoredRun

Row = dict[str, Any]


def collect(run: StoredRun, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Collected:
    """The rows of `ranks.parquet`, from the rows of results."""
    solo = {cell["cell"]: _solo(run, folder) for cell, folder in run.done_entries("lora_ranks")}
    return Collected({TABLE: rows(tables[layout.RESULTS], solo)})


def _solo(run: StoredRun, folder: str) -> Row:
    """What the steps of a rank by itself took; nothing where they were not measured."""
    written = manifest.read(run.folder / folder)
    return {} if written is None else {name: written["facts"][name] for name in SOLO}


def rows(results: Sequence[Mapping[str, Any]], solo: Mapping[str, Row]) -> list[Row]:
    """The rows of all families, from the rows of results and costs by cell; recipes are apart."""
    by_recipe = grouped((dict(row) for row in results), lambda row: row.get("recipe"))
    return [row for own in by_recipe.values() for family in families(own) for row in _of_family(family, solo)]


def _of_family(family: Family, solo: Mapping[str, Row]) -> Iterator[Row]:
    trials = [
        Trial(row["rank"], row["seed"], change, not row.get("lr_edge"))
        for row in family.rows
        if (change := _valid_change(row)) is not None
    ]
    for rank, verdict in rank_verdicts(trials).items():
        cells = [row for row in family.rows if row["rank"] == rank]
        yield {**_row(family, cells, verdict), **solo.get(str(cells[0].get("cell")), {})}


def _row(family: Family, cells: Sequence[Mapping[str, Any]], verdict: RankVerdict) -> Row:
    own = {name: cells[0].get(name) for name in COORDINATES}
    loss = verdict.loss
    return {
        **own,
        "family": family.label,
        "alpha_rule": family.alpha,
        "seeds": verdict.seeds,
        "valid_change": _mean([_valid_change(cell) for cell in cells]),
        "test_change": _mean([cell["delta_nll"] for cell in cells]),
        "forgetting": _mean([cell.get("forgetting") for cell in cells]),
        "loss_to_best": loss and loss.estimate,
        "loss_lo": loss and loss.lower,
        "loss_hi": loss and loss.upper,
        "degrees_of_freedom": verdict.degrees_of_freedom,
        "pooled": verdict.pooled,
        "verdict": verdict.verdict,
        "reason": verdict.reason or None,
        "shared_tokens_per_second": _mean([cell.get("tokens_per_second") for cell in cells]),
        "margin": MARGIN_NATS,
    }


def _valid_change(row: Mapping[str, Any]) -> float | None:
    before, after = row.get("valid_nll_before"), row.get("valid_nll_after")
    return None if before is None or after is None else after - before


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
