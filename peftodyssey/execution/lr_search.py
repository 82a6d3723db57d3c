"""Searches for a learning rate (`tune: auto`): which rate the next round adds, from stored results alone.

A round goes one rate beyond the edge at which the best one lies, on the scale 1, 3, 10, until the best rate has a worse
one (or one that diverged) on each side, or `max_cells` is spent. It is computed from the results of the round before,
so that a run that was killed, or that another process goes on with, takes the same rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.recipe.lr_scale import next_lr
from peftodyssey.stats.lr_selection import Candidate, best_rate, edge, pooled
from peftodyssey.store import manifest, plans

GOING_ON, RESOLVED, SPENT, UNTRAINABLE = "going on", "resolved", "spent", "untrainable"


@dataclass(frozen=True)
class Search:
    """One search as its results are: `state` is one of the words above."""

    name: str  # method, text and base
    rates: tuple[float, ...]  # of the current round, with those of all rounds before
    round: int
    state: str
    cells: int  # that its rounds took so far, those of the current one included
    max_cells: int
    left: int  # cells of the current round that are not finished
    best: float | None = None
    edge: str | None = None
    next_rate: float | None = None  # that another round adds


def searches(plan: Mapping[str, Any], root: Path) -> dict[str, Search]:
    """The searches of a plan by group; `plan` has `cells` and `searches` as in the store's plan file."""
    cells: dict[str, list[Mapping[str, Any]]] = {group: [] for group in plan.get("searches") or {}}
    for cell in plan["cells"]:
        if cell["group"] in cells:
            cells[cell["group"]].append(cell)
    return {group: _search(cells[group], described, root) for group, described in (plan.get("searches") or {}).items()}


def next_round(plan: Mapping[str, Any], root: Path) -> dict[str, tuple[float, ...]] | None:
    """The rates of every search, by group, with those that the next round adds; None where there is no further round.

    There is none before all cells of the current one are finished or have failed.
    """
    found = searches(plan, root)
    if not any(search.next_rate for search in found.values()):
        return None
    return {
        group: tuple(sorted({*search.rates, *((search.next_rate,) if search.next_rate else ())}))
        for group, search in found.items()
    }


def _search(cells: Sequence[Mapping[str, Any]], described: Mapping[str, Any], root: Path) -> Search:
    own = cells[0]["coordinates"]
    budget = f", {own['budget']}" if own.get("budget") else ""
    name = f"{own['label']} on {own['domain']} ({own['revision'] or own['model']}{budget})"
    rates = tuple(sorted({float(cell["coordinates"]["lr"]) for cell in cells}))
    candidates = [
        Candidate("", float(cell["coordinates"]["lr"]), int(cell["coordinates"]["seed"]), _valid_nll(cell, root))
        for cell in cells
    ]
    left = sum(candidate.valid_nll is None for candidate in candidates)
    number = 1 + len(set(rates) - set(described["first_rates"]))
    losses = pooled(candidates)
    best = None if left else best_rate(losses)
    at_edge = None if best is None else edge(best, rates, losses)
    further = next_lr(best, at_edge) if best is not None and at_edge else None
    affordable = len(cells) + len({candidate.seed for candidate in candidates}) <= described["max_cells"]
    if left:
        state = GOING_ON
    elif best is None:
        state = UNTRAINABLE
    elif further is None:
        state = RESOLVED
    else:
        state = GOING_ON if affordable else SPENT
    next_rate = further if state == GOING_ON else None
    return Search(name, rates, number, state, len(cells), described["max_cells"], left, best, at_edge, next_rate)


def _valid_nll(cell: Mapping[str, Any], root: Path) -> float | None:
    """The validation NLL of a cell, not a number where it failed; None where it is not finished."""
    column = root / cell["scores"]["valid"]["after"]
    if manifest.read(root / cell["folder"]) is None or (scored := manifest.read(column)) is None:
        failed = manifest.failure(root / cell["folder"]) or manifest.failure(column)
        return math.nan if failed else None
    loss = scored["facts"]["nll_nats_mean"]
    return math.nan if loss is None else float(loss)


def lines(root: Path) -> list[str]:
    """One line for each search of the newest plan of every recipe of a directory: its round, and how it ended."""
    newest = {plan["recipe"]: plan for plan in plans.read_all(root)}
    return [line(search) for plan in newest.values() for search in searches(plan, root).values()]


def line(search: Search) -> str:
    """A search in words."""
    rates = ", ".join(f"{rate:g}" for rate in search.rates)
    return (
        f"learning rate of {search.name}: round {search.round}, {search.cells} of at most {search.max_cells} cells, "
        f"rates {rates}; {_outcome(search)}"
    )


def _outcome(search: Search) -> str:
    if search.left:
        return f"{search.left} cells of this round are not finished"
    if search.state == GOING_ON:
        return f"the best, {search.best:g}, is the {search.edge} edge: the next round adds {search.next_rate:g}"
    if search.state == RESOLVED:
        return f"resolved at {search.best:g}"
    if search.state == SPENT:
        return f"not resolved: the best, {search.best:g}, is the {search.edge} edge and max_cells is spent"
    return "not resolved: no rate could be trained"
