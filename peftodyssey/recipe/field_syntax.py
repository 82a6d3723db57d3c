"""The ways of writing a field: one value or a list of them (an axis), a tuned axis, a word for a mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import core_schema

from peftodyssey.recipe import numbers
from peftodyssey.recipe.field_types import (
    Alpha,
    Flag,
    Positive,
    PositiveInt,
    RecipeSection,
    ShareBelowOne,
    refuse,
)


class OrList:
    """Marks a tuple field that may be written as one value: `rank: 8` as well as `rank: [2, 8]`."""

    def __init__(
        self,
        is_one: Callable[[Any], bool] = lambda value: not isinstance(value, (list, tuple)),
        empty: bool = False,
    ) -> None:
        self.is_one, self.empty = is_one, empty

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def wrap(value: Any) -> Any:
            values = (value,) if self.is_one(value) else tuple(value)
            if not values and not self.empty:
                raise refuse(
                    "the list is empty", "one value or a list of values", "name at least one, or delete the line"
                )
            return values

        return core_schema.no_info_before_validator_function(wrap, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        listed = handler(schema)
        return {"anyOf": [listed["items"], listed if self.empty else {**listed, "minItems": 1}]}


def _one_target_set(value: Any) -> bool:
    """One set of targets is a word or a list of leaf names; a list holding lists or `all-linear` is an axis."""
    return (
        isinstance(value, str)
        or not isinstance(value, (list, tuple))
        or (bool(value) and all(isinstance(v, str) and v != "all-linear" for v in value))
    )


def _target_set(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise refuse("not a set of target modules", "all-linear, or a list of module names such as [q_proj, v_proj]")


TargetSet = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_target_set),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Ranks = Annotated[tuple[PositiveInt, ...], OrList()]
Alphas = Annotated[tuple[Alpha, ...], OrList()]
Dropouts = Annotated[tuple[ShareBelowOne, ...], OrList()]
Flags = Annotated[tuple[Flag, ...], OrList()]
Targets = Annotated[tuple[TargetSet, ...], OrList(_one_target_set)]


class LearningRateSpec(RecipeSection):
    """Learning rates of a method: `fixed` ones are an axis of the grid; of `tune` ones validation loss selects one."""

    fixed: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates of cells that are all reported."
    )
    tune: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates of which validation loss selects the one that is reported."
    )


def _learning_rates(value: Any) -> Any:
    """`1e-3`, `[1e-4, 1e-3]` and `{tune: [1e-4, 1e-3]}` as the fields of a `LearningRateSpec`."""
    allowed, key = "1e-3, [1e-4, 1e-3] or {tune: [1e-4, 1e-3]}", "fixed"
    if isinstance(value, LearningRateSpec):
        return value
    if isinstance(value, dict):
        if set(value) != {"tune"}:
            raise refuse("a mapping here has the one key `tune`", allowed)
        value, key = value["tune"], "tune"
    rates = list(value) if isinstance(value, (list, tuple)) else [value]
    if not rates:
        raise refuse("the list of learning rates is empty", allowed)
    return {key: rates}


_RATE = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": numbers.NUMBER}]}
_RATE_LIST = {"type": "array", "items": _RATE, "minItems": 1}
_TUNE = {
    "type": "object",
    "properties": {"tune": {"anyOf": [_RATE, _RATE_LIST]}},
    "required": ["tune"],
    "additionalProperties": False,
}
LearningRates = Annotated[
    LearningRateSpec, BeforeValidator(_learning_rates), WithJsonSchema({"anyOf": [_RATE, _RATE_LIST, _TUNE]})
]


class Shorthand:
    """Marks a class that may also be written as one word, which is the value of its field `key`."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def wrap(value: Any) -> Any:
            return {self.key: value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(wrap, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}
