"""What learning rates may be, and when those that trail may be stopped."""

from __future__ import annotations

from collections.abc import Iterator

from peftodyssey.errors import Problem
from peftodyssey.recipe.cell import is_at_peak_lr
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_training import Budget

FIRST_RATES = 3  # of a search, in its first round


def check_learning_rates(recipe: Recipe) -> Iterator[Problem]:
    """Errors: a search that cannot begin. Warnings: one rate to choose from, and rates that look like a slip."""
    for index, method in enumerate(recipe.methods):
        rates = getattr(method, "lr", None)
        if rates is None:
            continue
        path = ("methods", index, "lr")
        first = FIRST_RATES * len(set(recipe.seeds))
        if rates.max_cells is not None and rates.max_cells < first:
            yield recipe.problem(
                path,
                f"the first round of a search takes {first} cells: {FIRST_RATES} rates with each seed",
                got=f"max_cells: {rates.max_cells}",
                allowed=f"{first} or more",
                next_step=f"write max_cells: {2 * first}, or remove it",
                depends_on=(("seeds",),),
            )
        if rates.tune is not None and len(set(rates.tune)) == 1:
            yield recipe.problem(
                path,
                "tune has one learning rate, so there is nothing to choose",
                got=f"{rates.tune[0]:g}",
                next_step="add a second, or write lr without tune",
                severity="warning",
            )
        for rate in {*(rates.tune or ()), *(rates.fixed or ())}:
            if rate >= 1:
                what, next_step = "an unusually large learning rate", "is an exponent missing, as in 1e-3?"
                yield recipe.problem(path, what, got=f"{rate:g}", next_step=next_step, severity="warning")


def check_halving(recipe: Recipe) -> Iterator[Problem]:
    """Errors where successive halving would compare rates that are not at their peak, or stop those of a search."""
    train, path = recipe.train, ("train", "select")
    if train.select is not None and any(getattr(getattr(m, "lr", None), "auto", False) for m in recipe.methods):
        yield recipe.problem(
            path,
            "a search for a learning rate (tune: auto) needs every rate trained to its end",
            allowed="select with written rates: lr: {tune: [...]}",
            next_step="remove select, or write the rates out",
            depends_on=(("methods",),),
        )
        return
    earlier = [share for share in train.eval_at if share < 1]
    if train.select is None or not earlier:
        return
    depends_on = (("train", "schedule"), ("train", "eval_at"), ("train", "warmup"))
    warmup = 0.0 if isinstance(train.warmup, Budget) else train.warmup
    if train.schedule in ("linear", "cosine"):
        yield recipe.problem(
            path,
            f"rates cannot be compared before the end under {train.schedule}: a high rate is behind until it has "
            "decayed, and would be stopped",
            got=f"schedule: {train.schedule}",
            allowed="schedule: wsd (compared before its decay) or constant",
            next_step="remove select, or write schedule: wsd",
            depends_on=depends_on,
        )
    elif not any(is_at_peak_lr(share, train.schedule, warmup) for share in earlier):
        yield recipe.problem(
            path,
            f"no point of eval_at lies where {train.schedule} is at its peak rate, so no cells can be compared",
            got=", ".join(f"{share:.0%}" for share in earlier),
            allowed="a point after warmup and, with wsd, at 80% of the budget at most",
            next_step="add 50% to eval_at, or remove select",
            depends_on=depends_on,
        )
