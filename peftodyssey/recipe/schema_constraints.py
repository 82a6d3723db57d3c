"""What every method may say, and the further constraints on its update, as pydantic classes. Used by
`recipe.schema_methods`.

A list on a field marked "axis" makes one cell per value. A constraint at its default leaves a cell what it was without
it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import (
    NonEmptyStr,
    NotNegative,
    Positive,
    PositiveInt,
    RecipeSection,
    Share,
    ShareBelowOne,
)

Strengths = Annotated[tuple[NotNegative, ...], OrList()]
Radii = Annotated[tuple[Positive, ...], OrList()]
Fractions = Annotated[tuple[ShareBelowOne, ...], OrList()]
Shares = Annotated[tuple[Share, ...], OrList(empty=True)]


class Method(RecipeSection):
    """What every method may say."""

    label: NonEmptyStr | None = Field(
        default=None,
        description="Name in tables and legends; text. Default: the method and what tells it apart.",
    )


class EarlyStop(RecipeSection):
    """When a training ends because the general text has become worse."""

    general: Positive = Field(
        default=0.02,
        description="How far the NLL of the first general text's validation part may rise above the start's, in nats per token.",
    )
    patience: PositiveInt = Field(
        default=1, description="After how many looks in a row above the bound the training ends, a count."
    )
    num_evals: PositiveInt = Field(
        default=10, description="How often the general text is looked at, evenly over the steps, a count."
    )


class ReplayAndEarlyStop(Method):
    """A method with constraints on what it is trained on, and for how long."""

    replay: Fractions = Field(
        default=(0.0,),
        description="Share of general text among the trained tokens, on top of the budget: the train part of `pretraining_text`, "
        "else of the first general text; axis, 0 to 1.",
    )
    early_stop: Annotated[tuple[EarlyStop, ...], OrList()] | None = Field(
        default=None,
        description="End when the general text has become worse, and keep the last weights within the bound; axis, a mapping.",
    )


class Regularized(ReplayAndEarlyStop):
    """A method whose change of the weights can be measured, pulled back and scaled."""

    l2_sp: Strengths = Field(
        default=(0.0,),
        description="Pull of the weights to their start (LoRA: of B to 0), decoupled as weight decay is, per step and unit of "
        "learning rate; axis.",
    )
    norm_ball: Radii | None = Field(
        default=None,
        description="Longest change of each matrix, as a share of the matrix's own Frobenius norm; axis. Default: any length.",
    )
    wise_ft: Shares = Field(
        default=(),
        description="Shares of the finished update at which the model is scored too, without training, 0 to 1; a list.",
    )


def constraint_grid(method: Method) -> tuple[dict[str, Any], ...]:
    """The options of a method that say how it is held, one mapping for each point of their axes, defaults left out."""
    if not isinstance(method, ReplayAndEarlyStop):
        return ({},)
    stops = tuple(stop.model_dump() for stop in method.early_stop or ())
    options: list[dict[str, Any]] = [{}]
    axes: dict[str, tuple[Any, ...]] = {"replay": method.replay, "early_stop": stops or (None,)}
    if isinstance(method, Regularized):
        axes = {"l2_sp": method.l2_sp, "norm_ball": method.norm_ball or (None,), **axes}
        axes["wise_ft"] = (tuple(sorted(set(method.wise_ft))),)
    for name, values in axes.items():
        options = [{**known, **({name: value} if value else {})} for known in options for value in values]
    return tuple(options)
