"""The ways of writing a field: one value or a list of them (an axis), a tuned axis, a word for a mapping."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
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
    """Learning rates of a method: `fixed` ones are an axis, of `tune` ones and of a search one is selected."""

    fixed: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates of cells that are all reported."
    )
    tune: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates of which validation loss selects the one that is reported."
    )
    auto: bool = Field(default=False, description="Whether the rates to tune are searched for in rounds.")
    max_cells: PositiveInt | None = Field(
        default=None, description="Cells that one search may take in all its rounds. Default: 8 for each seed."
    )


def _learning_rates(value: Any) -> Any:
    """`1e-3`, `[1e-4, 1e-3]`, `{tune: [1e-4, 1e-3]}` and `{tune: auto}` as the fields of a `LearningRateSpec`."""
    allowed, key = "1e-3, [1e-4, 1e-3], {tune: [1e-4, 1e-3]} or {tune: auto, max_cells: 24}", "fixed"
    if isinstance(value, LearningRateSpec):
        return value
    limit: Any = None
    if isinstance(value, dict):
        if "tune" not in value or set(value) - {"tune", "max_cells"}:
            raise refuse("a mapping here has the keys `tune` and, with `tune: auto`, `max_cells`", allowed)
        limit, value, key = value.get("max_cells"), value["tune"], "tune"
    if _is_word(value):
        if key == "tune" and value == "auto":
            return {"auto": True, "max_cells": limit}
        raise refuse("not a learning rate", allowed, _meant(value, key))
    if limit is not None:
        raise refuse("max_cells limits a search, and these rates are written out", allowed, "remove it, or tune: auto")
    rates = list(value) if isinstance(value, (list, tuple)) else [value]
    if not rates:
        raise refuse("the list of learning rates is empty", allowed)
    return {key: rates}


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and not re.match(numbers.NUMBER, value)


def _meant(word: str, key: str) -> str:
    if not get_close_matches(word, ["auto"], 1, 0.5):
        return ""
    return "did you mean auto?" if key == "tune" else "did you mean {tune: auto}?"


_RATE = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": numbers.NUMBER}]}
_RATE_LIST = {"type": "array", "items": _RATE, "minItems": 1}
_TUNE = {
    "type": "object",
    "properties": {
        "tune": {"anyOf": [_RATE, _RATE_LIST, {"const": "auto"}]},
        "max_cells": {"anyOf": [{"type": "number"}, {"type": "string", "pattern": numbers.COUNT}]},
    },
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
