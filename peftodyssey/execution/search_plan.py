"""The plan of a round of searches for a learning rate, from the results of the rounds before. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftodyssey.execution import lr_search
from peftodyssey.plan.build import build
from peftodyssey.plan.measure import PlannedMeasure
from peftodyssey.plan.tasks import Plan


def as_stored(plan: Plan) -> dict[str, Any]:
    """What the plan file says of a plan's cells and searches."""
    return {"cells": [task.entry for task in plan.cells], "searches": plan.searches}


def following(plan: Plan, root: Path, measures: Sequence[PlannedMeasure], needs_weights: bool = True) -> Plan | None:
    """The plan of the round after `plan`, or None where its cells are not all finished below `root` or it is the last.

    `measures` and `needs_weights` are those of `plan.build`.
    """
    rates = lr_search.next_round(as_stored(plan), root)
    if rates is None:
        return None
    budget_bytes = plan.budget_bytes
    return build(plan.recipe, plan.device, budget_bytes, measures=measures, needs_weights=needs_weights, rates=rates)


def continued(plan: Plan, root: Path, measures: Sequence[PlannedMeasure], needs_weights: bool = True) -> Plan:
    """The plan of the first round whose cells are not all finished below `root`, or of the last one."""
    while (later := following(plan, root, measures, needs_weights)) is not None:
        plan = later
    return plan
