"""The keys that all methods share, and the further constraints on the update, as pydantic classes.

A list on a field marked "axis" makes one cell per value. A constraint at its default changes nothing.
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


class MethodSection(RecipeSection):
    """The keys of every method."""

    label: NonEmptyStr | None = Field(
        default=None,
        description="Name in tables and legends; text. Default: the method and the settings in which it differs.",
    )


class EarlyStop(RecipeSection):
    """When training ends because the loss on general text has risen."""

    general: Positive = Field(
        default=0.02,
        description="How far the NLL of the first general text's validation split may rise above that of the base, in "
        "nats per token.",
    )
    patience: PositiveInt = Field(
        default=1, description="Evaluations in a row above that bound after which training ends; a count."
    )
    num_evals: PositiveInt = Field(
        default=10, description="Evaluations during training, evenly spaced over the steps; a count."
    )


class ReplayAndEarlyStop(MethodSection):
    """A method that can replay general text and stop early."""

    replay: Fractions = Field(
        default=(0.0,),
        description="Share of the trained tokens that is replayed from the training split of `pretraining_text`, else "
        "of the first general text, on top of the budget; axis, 0 to 1.",
    )
    early_stop: Annotated[tuple[EarlyStop, ...], OrList()] | None = Field(
        default=None,
        description="Early stopping when the loss on general text has risen; the last weights within the bound are "
        "kept; axis, a mapping.",
    )


class Regularized(ReplayAndEarlyStop):
    """A method whose update can also be regularized and scaled."""

    l2_sp: Strengths = Field(
        default=(0.0,),
        description="L2-SP: strength of a decoupled decay of the weights towards the base (LoRA: of B towards 0), per "
        "step and unit of learning rate; axis.",
    )
    norm_ball: Radii | None = Field(
        default=None,
        description="Largest Frobenius norm of each matrix's update, as a share of the matrix's own norm; axis. "
        "Default: no limit.",
    )
    wise_ft: Shares = Field(
        default=(),
        description="WiSE-FT: shares of the finished update at which the model is scored too, without further "
        "training, 0 to 1; a list.",
    )


def constraint_grid(method: MethodSection) -> tuple[dict[str, Any], ...]:
    """The constraints of a method as options, one mapping for each point of their axes, defaults left out."""
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
