"""A run in rounds: where learning rates are searched for, each round is a plan that is executed like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from peftodyssey.execution import lr_search
from peftodyssey.execution.launch import Options, start
from peftodyssey.execution.outcome import Outcome
from peftodyssey.jobs.context import RunMeasure
from peftodyssey.plan.build import build
from peftodyssey.plan.measure import PlannedMeasure
from peftodyssey.plan.tasks import Plan


class RoundMeasure(PlannedMeasure, RunMeasure, Protocol):
    """A measure as rounds see it: each round plans it, and then runs it."""


def as_stored(plan: Plan) -> dict[str, Any]:
    """What the plan file says of a plan's cells and searches."""
    return {"cells": [task.entry for task in plan.cells], "searches": plan.searches}


def continued(plan: Plan, root: Path, measures: Mapping[str, RoundMeasure], needs_weights: bool = True) -> Plan:
    """The plan of the first round whose cells are not all finished below `root`, or of the last one."""
    while (rates := lr_search.next_round(as_stored(plan), root)) is not None:
        plan = at_rates(plan, rates, measures, needs_weights)
    return plan


def at_rates(
    plan: Plan,
    rates: Mapping[str, Sequence[float]],
    measures: Mapping[str, RoundMeasure],
    needs_weights: bool = True,
) -> Plan:
    """The plan with these rates of its searches, by group."""
    known = tuple(measures.values())
    return build(plan.recipe, plan.device, plan.budget_bytes, measures=known, needs_weights=needs_weights, rates=rates)


def run_rounds(
    plan: Plan, root: Path, options: Options, console: Console, measures: Mapping[str, RoundMeasure]
) -> tuple[Plan, Outcome]:
    """Execute `plan` and the rounds that follow from its results; returns the last plan, and what all rounds did.

    A cell that failed in this run is not tried again in a later round.
    """
    plan = continued(plan, root, measures)
    outcome = start(plan, root, options, console, measures)
    while not outcome.interrupted and (rates := lr_search.next_round(as_stored(plan), root)) is not None:
        plan = at_rates(plan, rates, measures)
        number = max(search.round for search in lr_search.searches(as_stored(plan), root).values())
        console.print(f"round {number} of the search for learning rates: {len(plan.cells)} cells", markup=False)
        later = start(plan, root, replace(options, leave_out=frozenset(outcome.failed)), console, measures)
        outcome = outcome.then(later)
    return plan, replace(outcome, searches=tuple(lr_search.lines(root)) if plan.searches else ())
