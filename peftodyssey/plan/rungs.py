"""Rungs that a recipe chooses by tokens, replaced by their names in the ladder.

This happens before the grid is made, so that the grid, the stored recipe and `check` show the names.
"""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.errors import OdysseyError, Problem
from peftodyssey.models.ladder import find_ladder
from peftodyssey.models.rung_choice import choose_rungs
from peftodyssey.recipe.grid import model_name
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_rungs import Rungs
from peftodyssey.recipe.schema_texts import Model


@dataclass(frozen=True)
class ResolvedRungs:
    """A recipe whose rungs all have names, with the warnings and problems of choosing them."""

    recipe: Recipe
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]


def resolve_rungs(recipe: Recipe) -> ResolvedRungs:
    """`recipe` with every choice of rungs by tokens replaced by the names that the ladder has there."""
    if not any(isinstance(model.revisions, Rungs) for model in recipe.model):
        return ResolvedRungs(recipe, (), ())
    models: list[Model] = []
    warnings: list[str] = []
    problems: list[Problem] = []
    for index, model in enumerate(recipe.model):
        if not isinstance(model.revisions, Rungs):
            models.append(model)
            continue
        try:
            choice = choose_rungs(find_ladder(model_name(model.name, recipe.folder)), model.revisions)
        except OdysseyError as error:
            problems.append(_problem(recipe, index, error))
            continue
        models.append(model.model_copy(update={"revisions": choice.names}))
        warnings += choice.warnings
    if problems:
        return ResolvedRungs(recipe, (), tuple(problems))
    return ResolvedRungs(recipe.model_copy(update={"model": tuple(models)}), tuple(warnings), ())


def _problem(recipe: Recipe, index: int, error: OdysseyError) -> Problem:
    path = ("model", index, "revisions") if isinstance(recipe.data.get("model"), list) else ("model", "revisions")
    return recipe.problem(path, error.message, next_step=error.next_step)
