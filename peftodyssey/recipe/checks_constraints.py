"""Which constraints on the update the other keys of a method, the engine and the texts of a recipe allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peftodyssey.errors import Problem
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_constraints import Regularized, ReplayAndEarlyStop

NEED_ZERO_UPDATE = ("l2_sp", "norm_ball", "wise_ft")  # need an update that is 0 at the start and can be scaled
IN_THE_LOOP = ("l2_sp", "norm_ball", "replay", "early_stop")  # done between the steps, or to their batches
ZERO_INITS = {"default", "gaussian"}


def check_constraints(recipe: Recipe) -> Iterator[Problem]:
    """Constraints that cannot be had with the method's other keys, the engine or the texts of the recipe."""
    for index, method in enumerate(recipe.methods):
        if isinstance(method, ReplayAndEarlyStop):
            yield from _texts(recipe, method, index)
            yield from _training(recipe, method, index)
        if isinstance(method, Regularized):
            yield from _zero_update(recipe, method, index)


def _is_on(method: ReplayAndEarlyStop, name: str) -> bool:
    """Whether any value of a constraint differs from "off"."""
    value: Any = getattr(method, name, None)
    return bool(value) and any(bool(each) for each in value)


def _texts(recipe: Recipe, method: ReplayAndEarlyStop, index: int) -> Iterator[Problem]:
    if _is_on(method, "replay") and recipe.pretraining_text is None and not recipe.general:
        yield recipe.problem(
            ("methods", index, "replay"),
            "there is no text to replay",
            next_step="add pretraining_text, or a general text with a train part",
            depends_on=(("general",),),
        )
    if method.early_stop and not recipe.general:
        yield recipe.problem(
            ("methods", index, "early_stop"),
            "there is no general text whose loss could rise",
            next_step="add general: [bundled/wiki_general]",
            depends_on=(("general",),),
        )


def _training(recipe: Recipe, method: ReplayAndEarlyStop, index: int) -> Iterator[Problem]:
    if method.early_stop and recipe.train.select is not None:
        yield recipe.problem(
            ("methods", index, "early_stop"),
            "an early stop ends each cell at its own step, and train.select compares cells at equal steps",
            next_step="remove one of the two",
            depends_on=(("train", "select"),),
        )
    for name in IN_THE_LOOP if recipe.train.engine == "trl" else ():
        if _is_on(method, name):
            yield recipe.problem(
                ("methods", index, name),
                f"TRL's trainer has no {name}",
                got="engine: trl",
                allowed="engine: native with it",
                next_step="remove it, or set train.engine to native",
                depends_on=(("train", "engine"),),
            )


def _zero_update(recipe: Recipe, method: Regularized, index: int) -> Iterator[Problem]:
    here = ("methods", index)
    inits, doras = getattr(method, "init", ()), getattr(method, "dora", ())
    for name in (name for name in NEED_ZERO_UPDATE if _is_on(method, name)):
        if not set(inits) <= ZERO_INITS or any(doras):
            yield recipe.problem(
                (*here, name),
                "this adapter's update is not a product of two matrices that is 0 at the start",
                got="dora" if any(doras) else ", ".join(init for init in inits if init not in ZERO_INITS),
                allowed="init: default or gaussian, without dora",
                depends_on=((*here, "init"), (*here, "dora")),
            )
        if name != "wise_ft" and "bf16" in getattr(method, "master_weights", ()):
            yield recipe.problem(
                (*here, name),
                "its small corrections are lost when weights are rounded to bf16",
                got="master_weights: bf16",
                allowed="master_weights: fp32 with it",
                depends_on=((*here, "master_weights"),),
            )
