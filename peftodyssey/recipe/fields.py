"""The kinds of value that a recipe's fields hold: human numbers, lists that are axes, tuned axes.
Used by `recipe.schema`.

Each is a type for pydantic with the JSON Schema of what a person may write, short forms included.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, core_schema

from peftodyssey.recipe import numbers


class Part(BaseModel):
    """Base of every class of the schema: frozen, unknown keys are errors, defaults are checked too."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, validate_default=True, coerce_numbers_to_str=False
    )


def refuse(what: str, allowed: str = "", next_step: str = "") -> PydanticCustomError:
    """An error that `recipe.explain` turns into a `Problem` with these words."""
    return PydanticCustomError("recipe", "{what}", {"what": what, "allowed": allowed, "next_step": next_step})


def _parsed(parse: Callable[[Any], Any]) -> BeforeValidator:
    def check(value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            what, _, allowed = str(error).rpartition("write ")
            raise refuse(what.rstrip("; ") or "this value cannot be read", allowed) from None

    return BeforeValidator(check)


def _pattern(*patterns: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": "number"}, *({"type": "string", "pattern": p} for p in patterns)]}
    )


def _at_least_one(value: Any) -> int:
    count = numbers.parse_count(value)
    if count < 1:
        raise ValueError("it must be at least 1; write a whole number such as 8")
    return count


def _above_zero(value: Any) -> float:
    number = numbers.parse_number(value)
    if number <= 0:
        raise ValueError("it must be above 0; write a number such as 1e-3")
    return number


def _not_negative(value: Any) -> float:
    number = numbers.parse_number(value)
    if number < 0:
        raise ValueError("it must not be negative; write a number such as 0 or 0.1")
    return number


def _below_one(value: Any) -> float:
    share = numbers.parse_share(value)
    if share >= 1:
        raise ValueError("it must be below 1; write a share such as 5% or 0.05")
    return share


def _above_zero_share(value: Any) -> float:
    share = numbers.parse_share(value)
    if share <= 0:
        raise ValueError("it must be above 0; write a share such as 50%")
    return share


def _token_cap(value: Any) -> int | None:
    return None if value == "all" else _at_least_one(value)


def _alpha(value: Any) -> float | str:
    numbers.parse_alpha(value, 1)
    return (
        str(value).replace(" ", "").replace("*", "").lower()
        if re.match(numbers.ALPHA, str(value))
        else numbers.parse_number(value)
    )


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("it is a switch; write true or false")


def _word(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("it must be text; write a word, in quotes where it looks like a number")


Count = Annotated[int, _parsed(_at_least_one), _pattern(numbers.COUNT)]
Natural = Annotated[int, _parsed(numbers.parse_count), _pattern(numbers.COUNT)]
TokenCap = Annotated[int | None, _parsed(_token_cap), _pattern(numbers.COUNT, "^all$")]
Share = Annotated[float, _parsed(numbers.parse_share), _pattern(numbers.SHARE)]
ShareBelowOne = Annotated[float, _parsed(_below_one), _pattern(numbers.SHARE)]
ShareAboveZero = Annotated[float, _parsed(_above_zero_share), _pattern(numbers.SHARE)]
Positive = Annotated[float, _parsed(_above_zero), _pattern(numbers.NUMBER)]
NotNegative = Annotated[float, _parsed(_not_negative), _pattern(numbers.NUMBER)]
Alpha = Annotated[float | str, _parsed(_alpha), _pattern(numbers.NUMBER, numbers.ALPHA)]
Flag = Annotated[bool, _parsed(_flag), WithJsonSchema({"type": "boolean"})]
Word = Annotated[str, _parsed(_word), WithJsonSchema({"type": ["string", "integer"]})]


class OrList:
    """Marks a tuple field that may be written as one value: `rank: 8` beside `rank: [2, 8]`."""

    def __init__(
        self,
        is_one: Callable[[Any], bool] = lambda value: not isinstance(value, (list, tuple)),
        empty: bool = False,
    ) -> None:
        self.is_one, self.empty = is_one, empty

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def wrap(value: Any) -> Any:
            values = (value,) if self.is_one(value) else tuple(value)
            if not values and not self.empty:
                raise refuse(
                    "the list is empty",
                    "one value or a list of values",
                    "name at least one, or delete the line",
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
    raise refuse(
        "not a set of target modules", "all-linear, or a list of module names such as [q_proj, v_proj]"
    )


TargetSet = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_target_set),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]
Ranks = Annotated[tuple[Count, ...], OrList()]
Alphas = Annotated[tuple[Alpha, ...], OrList()]
Dropouts = Annotated[tuple[ShareBelowOne, ...], OrList()]
Flags = Annotated[tuple[Flag, ...], OrList()]
Targets = Annotated[tuple[TargetSet, ...], OrList(_one_target_set)]


class Rates(Part):
    """Learning rates of a method: `fixed` ones are an axis of the grid, `tune` ones are chosen among on validation."""

    fixed: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates to run side by side, per step, no unit."
    )
    tune: tuple[Positive, ...] | None = Field(
        default=None, description="Learning rates to choose among by validation loss, per step, no unit."
    )


class _RatesForm:
    """Reads `1e-3`, `[1e-4, 1e-3]` and `{tune: [1e-4, 1e-3]}` as `Rates`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    @staticmethod
    def read(value: Any) -> Any:
        allowed = "1e-3, [1e-4, 1e-3] or {tune: [1e-4, 1e-3]}"
        if isinstance(value, Rates):
            return value
        if isinstance(value, dict):
            if set(value) != {"tune"}:
                raise refuse("a mapping here has the one key `tune`", allowed)
            value, key = value["tune"], "tune"
        else:
            key = "fixed"
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise refuse("the list of learning rates is empty", allowed)
        return {key: list(values)}

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        one = {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": numbers.NUMBER},
            ]
        }
        some = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
        tune = {
            "type": "object",
            "properties": {"tune": some},
            "required": ["tune"],
            "additionalProperties": False,
        }
        return {"anyOf": [one, some["anyOf"][1], tune]}


LearningRates = Annotated[Rates, _RatesForm()]


class Short:
    """Marks a class that may also be written as one word, which stands for the field `key`."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def wrap(value: Any) -> Any:
            return {self.key: value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(wrap, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}
