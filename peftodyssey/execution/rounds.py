"""A run in rounds: where learning rates are searched for, each round is a plan that is executed like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.console import Console

from peftodyssey.execution import lr_search
from peftodyssey.execution.launch import Options, start
from peftodyssey.execution.outcome import Outcome
from peftodyssey.execution.search_plan import as_stored, continued, following
from peftodyssey.jobs.context import RunMeasure
from peftodyssey.plan.measure import PlannedMeasure
from peftodyssey.plan.tasks import Plan


class RoundMeasure(PlannedMeasure, RunMeasure, Protocol):
    """A measure as rounds see it: each round plans it, and then runs it."""


def run_rounds(
    plan: Plan, root: Path, options: Options, console: Console, measures: Mapping[str, RoundMeasure]
) -> tuple[Plan, Outcome]:
    """Execute `plan` and the rounds that follow from its results; returns the last plan, and what all rounds did.

    A cell that failed in this run is not tried again in a later round.
    """
    known = tuple(measures.values())
    plan = continued(plan, root, known)
    outcome = start(plan, root, options, console, measures)
    while not outcome.interrupted and (later := following(plan, root, known)) is not None:
        plan = later
        number = max(search.round for search in lr_search.searches(as_stored(plan), root).values())
        console.print(f"round {number} of the search for learning rates: {len(plan.cells)} cells", markup=False)
        more = start(plan, root, replace(options, leave_out=frozenset(outcome.failed)), console, measures)
        outcome = outcome.then(more)
    return plan, replace(outcome, searches=tuple(lr_search.lines(root)) if plan.searches else ())
