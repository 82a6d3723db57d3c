"""Rungs that a recipe chooses by tokens, replaced by their names in the ladder.

This happens before the grid is made, so that the grid, the stored recipe and `check` show the names.
"""

from __future__ import annotations

from peftodyssey.errors import OdysseyError, RecipeError
from peftodyssey.models.ladder import find_ladder
from peftodyssey.models.rung_choice import choose_rungs
from peftodyssey.recipe.grid import model_name
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_rungs import Rungs


def resolve_rungs(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """`recipe` with rungs by name where it chooses them by tokens, and warnings; RecipeError where there are none."""
    models, problems = [], []
    warnings: list[str] = []
    for index, model in enumerate(recipe.model):
        if isinstance(model.revisions, Rungs):
            try:
                choice = choose_rungs(find_ladder(model_name(model.name, recipe.folder)), model.revisions)
                model = model.model_copy(update={"revisions": choice.names})
                warnings += choice.warnings
            except OdysseyError as error:
                is_list = isinstance(recipe.data.get("model"), list)
                path = ("model", index, "revisions") if is_list else ("model", "revisions")
                problems.append(recipe.problem(path, error.message, next_step=error.next_step))
        models.append(model)
    if problems:
        raise RecipeError(problems)
    return recipe.model_copy(update={"model": tuple(models)}), warnings
