"""What is wrong between the values of `train`: batch, budgets with their warmup, and successive halving."""

from __future__ import annotations

import math
from collections.abc import Iterator

from peftodyssey.constants import WSD_DECAY_SHARE
from peftodyssey.errors import Problem
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_training import Budget


def step_tokens(recipe: Recipe) -> int:
    """Tokens of one optimiser step: `batch_tokens` rounded to a multiple of `seq_len`, at least one sequence."""
    length = recipe.train.seq_len
    return max(1, round(recipe.train.batch_tokens / length)) * length


def check_batch(recipe: Recipe) -> Iterator[Problem]:
    """A step of fewer tokens than a sequence, or of no whole number of sequences."""
    path, length, tokens = ("train", "batch_tokens"), recipe.train.seq_len, recipe.train.batch_tokens
    depends_on = (("train", "seq_len"),)
    train = recipe.data.get("train", {})
    written = train.get("batch_tokens", "4k") if isinstance(train, dict) else "4k"
    may_round = isinstance(written, str) and written.strip()[-1:].isalpha()  # 4k, not 4000
    if tokens < length:
        yield recipe.problem(
            path,
            "a step is shorter than one sequence",
            got=str(written),
            allowed=f"at least seq_len ({length})",
            next_step=f"write {length}",
            depends_on=depends_on,
        )
    elif tokens % length and not (may_round and abs(step_tokens(recipe) - tokens) <= 0.05 * tokens):
        yield recipe.problem(
            path,
            f"not a multiple of seq_len ({length})",
            got=str(written),
            allowed=f"whole sequences of {length} tokens",
            next_step=f"write {tokens // length * length} or {-(-tokens // length) * length}",
            depends_on=depends_on,
        )


def steps_of(amount: Budget, batch_tokens: int) -> int | None:
    """Optimiser steps of an amount in tokens or steps, at least one; None for epochs: the text decides."""
    if amount.unit == "epochs":
        return None
    return max(1, math.ceil(amount.amount / (batch_tokens if amount.unit == "tokens" else 1)))


def check_budgets(recipe: Recipe) -> Iterator[Problem]:
    """Several budgets in unlike units, or on a stem whose warmup depends on the budget; a warmup that is too long."""
    train = recipe.train
    budgets, schedule = train.budget, train.schedule
    depends_on = (("train", "budget"), ("train", "schedule"), ("train", "eval_at"))
    if len(units := {budget.unit for budget in budgets}) > 1:
        yield recipe.problem(
            ("train", "budget"),
            "budgets have different units",
            got=", ".join(sorted(units)),
            allowed="one unit: [12k tokens, 25k tokens]",
        )
        return
    several_on_a_stem = len(set(budgets)) > 1 and schedule == "wsd"
    if several_on_a_stem and not isinstance(train.warmup, Budget) and train.warmup:
        steps = steps_of(min(budgets, key=lambda budget: budget.amount), step_tokens(recipe))
        as_many = f"{max(1, math.ceil(train.warmup * steps))} steps" if steps else "10 steps"
        yield recipe.problem(
            ("train", "warmup"),
            "budgets with schedule wsd share one stem, and a warmup as a share would differ between them",
            got=f"{train.warmup:g} of the steps",
            allowed="an amount of tokens or steps, or 0",
            next_step=f"write warmup: {as_many}",
            depends_on=depends_on,
        )
    if several_on_a_stem and min(train.eval_at) < 1:
        yield recipe.problem(
            ("train", "eval_at"),
            "with evaluations before the end, every budget is trained from its start and no stem is shared",
            next_step="remove eval_at to train the stem once",
            severity="warning",
            depends_on=depends_on,
        )
    yield from _long_warmup(recipe)


def _long_warmup(recipe: Recipe) -> Iterator[Problem]:
    """A warmup of so many steps that the shortest budget would not reach its peak learning rate, or decay."""
    train = recipe.train
    counted = [steps for budget in train.budget if (steps := steps_of(budget, step_tokens(recipe))) is not None]
    warmup = steps_of(train.warmup, step_tokens(recipe)) if isinstance(train.warmup, Budget) else None
    if warmup is None or not counted:
        return
    decay = math.ceil(min(counted) * WSD_DECAY_SHARE) if train.schedule == "wsd" else 1
    if warmup > min(counted) - decay:
        yield recipe.problem(
            ("train", "warmup"),
            "the warmup does not end before the shortest budget decays",
            got=f"{warmup} steps",
            allowed=f"up to {min(counted) - decay} of its {min(counted)} steps",
            depends_on=(("train", "budget"), ("train", "schedule"), ("train", "batch_tokens")),
        )


def check_select(recipe: Recipe) -> Iterator[Problem]:
    """Successive halving without points of comparison, or where there is nothing to stop."""
    path, train = ("train", "select"), recipe.train
    if train.select is None:
        return
    depends_on = (("train", "eval_at"), ("train", "engine"))
    if all(share >= 1 for share in train.eval_at):
        yield recipe.problem(
            path,
            "cells are compared at the points of eval_at before the end, and there is none",
            next_step="add train.eval_at: [25%, 50%, 100%], or remove select",
            depends_on=depends_on,
        )
    if train.engine == "trl":
        what = "TRL's trainer cannot stop on the way and go on"
        yield recipe.problem(path, what, allowed="engine: native with select", depends_on=depends_on)
    if not any(getattr(getattr(method, "lr", None), "tune", None) for method in recipe.methods):
        yield recipe.problem(
            path,
            "no method has learning rates to choose among, so no cell is stopped",
            next_step="write lr: {tune: [...]} at a method, or remove select",
            severity="warning",
            depends_on=(*depends_on, ("methods",)),
        )
