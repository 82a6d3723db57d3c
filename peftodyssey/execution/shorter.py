"""What would shorten a long run most: the recipe with one setting changed, planned and timed at the same rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftodyssey.display.durations import format_seconds
from peftodyssey.errors import OdysseyError
from peftodyssey.execution.time_left import expected, whole_work, words, work_left
from peftodyssey.plan.tasks import Plan
from peftodyssey.recipe.cell import is_at_peak_lr
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_training import Budget, Select

LONG_SECONDS = 3600.0
SHOWN = 3


def shorter_lines(plan: Plan, root: Path, replan: Callable[[Recipe], Plan]) -> list[str]:
    """Of a run of more than an hour: that it is one, and the three settings that would shorten it most, by how much.

    Nothing for a shorter run, and where its time is not known. `replan` plans a recipe for the same device.
    """
    if plan.device.named_by:
        return []
    left, _ = expected(plan, root, work_left(plan, root))
    whole = _whole_seconds(plan, root)
    if left.seconds is None or left.seconds <= LONG_SECONDS or whole is None:
        return []
    saved: list[tuple[float, str]] = []
    for name, changed in _changes(plan.recipe):
        try:
            seconds = _whole_seconds(replan(changed), root)
        except OdysseyError:  # the recipe does not allow this change
            continue
        if seconds is not None and seconds < whole:
            saved.append((whole - seconds, name))
    lines = [f"this run takes more than an hour: {words(left)}"]
    lines += [
        f"  --set {name} would save about {format_seconds(seconds)} of {format_seconds(whole)}"
        for seconds, name in sorted(saved, reverse=True)[:SHOWN]
    ]
    return lines


def _whole_seconds(plan: Plan, root: Path) -> float | None:
    """The time of the grid from nothing to its end; None where it is not known."""
    return expected(plan, root, whole_work(plan))[0].seconds


def _changes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipe after each change, by the override that makes it: one value of an axis, half of an amount."""
    train, score = recipe.train, recipe.score
    if len(recipe.seeds) > 1:
        yield f"seeds=[{recipe.seeds[0]}]", _with(recipe, seeds=recipe.seeds[:1])
    if len(recipe.domains) > 1:
        yield f"domains=[{recipe.domains[0].source}]", _with(recipe, domains=recipe.domains[:1])
    budgets = tuple(half for budget in train.budget if (half := _half(budget)))
    if len(budgets) == len(train.budget):
        named = ", ".join(f"{budget.amount:.12g} {budget.unit}" for budget in budgets)
        value = f"[{named}]" if len(budgets) > 1 else named
        yield f'"train.budget={value}"', _with(recipe, train=_with(train, budget=budgets))
    if isinstance(score.tokens, int) and score.tokens > 1:
        yield f"score.tokens={score.tokens // 2}", _with(recipe, score=_with(score, tokens=score.tokens // 2))
    if len(train.eval_at) > 1:
        yield "train.eval_at=[100%]", _with(recipe, train=_with(train, eval_at=(1.0,)))
    warmup = train.warmup if isinstance(train.warmup, float) else 0.0
    if train.select is None and any(is_at_peak_lr(share, train.schedule, warmup) for share in train.eval_at):
        yield "train.select={halving: 2}", _with(recipe, train=_with(train, select=Select(halving=2)))


def _half(budget: Budget) -> Budget | None:
    """Half of a budget, in whole tokens or steps; None where there is no half of it."""
    half = budget.amount / 2 if budget.unit == "epochs" else budget.amount // 2
    return budget.model_copy(update={"amount": half}) if half else None


def _with(section: Any, **values: Any) -> Any:
    return section.model_copy(update=values)
