"""Rungs of a pretraining ladder in a recipe: names, or numbers of tokens that are looked up.

`models.rung_choice` looks them up in the ladder's own list of rungs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import NonEmptyStr, PositiveInt, RecipeSection, refuse


class Rungs(RecipeSection):
    """Rungs chosen by their pretraining tokens: a list, or evenly spaced ones."""

    model_config = ConfigDict(populate_by_name=True)

    tokens: Annotated[tuple[PositiveInt, ...], OrList()] | None = Field(
        default=None,
        description="Pretraining tokens of the rungs, each within 5% of a rung that exists; a count or a list.",
    )
    every: PositiveInt | None = Field(
        default=None, description="In place of `tokens`: the distance between rungs, in tokens."
    )
    start: PositiveInt | None = Field(
        default=None, alias="from", description="With `every`: the first rung, in tokens. Default: `every`."
    )
    to: PositiveInt | None = Field(
        default=None, description="With `every`: the last rung, in tokens. Default: the last rung of the ladder."
    )
    arm: Annotated[tuple[NonEmptyStr, ...], OrList()] | None = Field(
        default=None,
        description="Arms of the ladder, such as trunk or annealed; a word or a list. Default: all arms.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Rungs:
        forms = "{tokens: [64M, 256M], arm: annealed} or {every: 250B, from: 0.5T, to: 3T}"
        if (self.tokens is None) == (self.every is None):
            raise refuse("rungs are chosen either by `tokens` or by `every`", forms, "give one of the two")
        if self.every is None and (self.start, self.to) != (None, None):
            raise refuse("`from` and `to` belong to `every`", forms, "remove them, or replace tokens by every")
        if self.start is not None and self.to is not None and self.start > self.to:
            raise refuse("`from` is larger than `to`", forms, "swap them")
        return self


def _form(value: Any) -> str:
    return "chosen" if isinstance(value, (dict, Rungs)) else "named"


Names = Annotated[tuple[NonEmptyStr, ...], OrList()]
Revisions = Annotated[Annotated[Names, Tag("named")] | Annotated[Rungs, Tag("chosen")], Discriminator(_form)]
