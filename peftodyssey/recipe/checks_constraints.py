"""Which further constraints a method, an engine and the texts of a recipe allow. Called by `recipe.checks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peftodyssey.recipe.finding import Finding
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_constraints import Regularized, ReplayAndEarlyStop

BY_LENGTH = ("l2_sp", "norm_ball", "wise_ft")  # need an update that is 0 at the start and can be scaled
IN_THE_LOOP = ("l2_sp", "norm_ball", "replay", "early_stop")  # done between the steps, or to their batches
ZERO_STARTS = {"default", "gaussian"}


def check_constraints(recipe: Recipe) -> Iterator[Finding]:
    """Constraints that cannot be done with the method's other keys, the engine or the texts there are."""
    for index, method in enumerate(recipe.methods):
        if isinstance(method, ReplayAndEarlyStop):
            yield from _texts(recipe, method, index)
            yield from _engine(recipe, method, index)
            yield from _select(recipe, method, index)
        if isinstance(method, Regularized):
            yield from _start(method, index)


def _asked(method: ReplayAndEarlyStop, name: str) -> bool:
    """Whether a method asks for the constraint at any of its values."""
    value: Any = getattr(method, name, None)
    return bool(value) and any(bool(each) for each in value)


def _texts(recipe: Recipe, method: ReplayAndEarlyStop, index: int) -> Iterator[Finding]:
    if _asked(method, "replay") and recipe.pretraining_text is None and not recipe.general:
        path = ("methods", index, "replay")
        yield Finding(
            path,
            "there is no text to replay",
            next_step="add pretraining_text, or a general text with a train part",
            needs=(path, ("general",)),
        )
    if method.early_stop and not recipe.general:
        path = ("methods", index, "early_stop")
        yield Finding(
            path,
            "there is no general text that could become worse",
            next_step="add general: [bundled/wiki_general]",
            needs=(path, ("general",)),
        )


def _select(recipe: Recipe, method: ReplayAndEarlyStop, index: int) -> Iterator[Finding]:
    if method.early_stop and recipe.train.select is not None:
        path = ("methods", index, "early_stop")
        yield Finding(
            path,
            "an early stop ends a cell at a step of its own, and train.select compares cells at equal ones",
            next_step="remove one of the two",
            needs=(path, ("train", "select")),
        )


def _engine(recipe: Recipe, method: ReplayAndEarlyStop, index: int) -> Iterator[Finding]:
    for name in IN_THE_LOOP if recipe.train.engine == "trl" else ():
        if _asked(method, name):
            path = ("methods", index, name)
            yield Finding(
                path,
                f"TRL's trainer has no {name}",
                "engine: trl",
                "engine: native with it",
                "remove it, or set train.engine to own",
                needs=(path, ("train", "engine")),
            )


def _start(method: Regularized, index: int) -> Iterator[Finding]:
    here = ("methods", index)
    starts, doras = getattr(method, "init", ()), getattr(method, "dora", ())
    for name in filter(lambda name: _asked(method, name), BY_LENGTH):
        path = (*here, name)
        if not set(starts) <= ZERO_STARTS or any(doras):
            got = "dora" if any(doras) else ", ".join(start for start in starts if start not in ZERO_STARTS)
            yield Finding(
                path,
                "this adapter's update is not a product that starts at 0",
                got,
                "init: default or gaussian, without dora",
                needs=(path, (*here, "init"), (*here, "dora")),
            )
        if name != "wise_ft" and "bf16" in getattr(method, "master_weights", ()):
            yield Finding(
                path,
                "weights kept in half precision round such small corrections away",
                "master_weights: bf16",
                "master_weights: fp32 with it",
                needs=(path, (*here, "master_weights")),
            )
