"""The types of a recipe's fields: counts, shares, numbers, switches and words.

Each is a type for pydantic with the JSON Schema of what a person may write, short forms included.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from peftodyssey.recipe import numbers


class RecipeSection(BaseModel):
    """Base of every class of the schema: frozen, unknown keys are errors, defaults are checked too."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, validate_default=True, coerce_numbers_to_str=False
    )


def written_keys(kind: type[BaseModel]) -> list[str]:
    """The keys of a class as a recipe writes them: `from` is a keyword of Python, so its field has another name."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def refuse(what: str, allowed: str = "", next_step: str = "") -> PydanticCustomError:
    """An error that `recipe.validation_errors` turns into a `Problem` with these words."""
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
    return WithJsonSchema({"anyOf": [{"type": "number"}, *({"type": "string", "pattern": p} for p in patterns)]})


def _bounded(parse: Callable[[Any], Any], holds: Callable[[Any], bool], otherwise: str) -> Callable[[Any], Any]:
    """`parse` that refuses numbers for which `holds` is false, with the message `otherwise`."""

    def check(value: Any) -> Any:
        number = parse(value)
        if not holds(number):
            raise ValueError(otherwise)
        return number

    return check


_at_least_one = _bounded(
    numbers.parse_count, lambda count: count >= 1, "it must be at least 1; write a whole number such as 8"
)
_positive = _bounded(numbers.parse_number, lambda x: x > 0, "it must be above 0; write a number such as 1e-3")
_not_negative = _bounded(
    numbers.parse_number, lambda x: x >= 0, "it must not be negative; write a number such as 0 or 0.1"
)
_share_below_one = _bounded(
    numbers.parse_share, lambda share: share < 1, "it must be below 1; write a share such as 5% or 0.05"
)
_share_above_zero = _bounded(
    numbers.parse_share, lambda share: share > 0, "it must be above 0; write a share such as 50%"
)


def _token_cap(value: Any) -> int | None:
    return None if value == "all" else _at_least_one(value)


def _alpha(value: Any) -> float | str:
    numbers.parse_alpha(value, 1)
    is_multiple = re.match(numbers.ALPHA, str(value))
    return str(value).replace(" ", "").replace("*", "").lower() if is_multiple else numbers.parse_number(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("it is a switch; write true or false")


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        if not value.isprintable():
            raise ValueError("it holds a character that cannot be printed; write it without")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("it must be text; write a word, in quotes where it looks like a number")


PositiveInt = Annotated[int, _parsed(_at_least_one), _pattern(numbers.COUNT)]
NonNegativeInt = Annotated[int, _parsed(numbers.parse_count), _pattern(numbers.COUNT)]
TokenCap = Annotated[int | None, _parsed(_token_cap), _pattern(numbers.COUNT, "^all$")]
Share = Annotated[float, _parsed(numbers.parse_share), _pattern(numbers.SHARE)]
ShareBelowOne = Annotated[float, _parsed(_share_below_one), _pattern(numbers.SHARE)]
ShareAboveZero = Annotated[float, _parsed(_share_above_zero), _pattern(numbers.SHARE)]
Positive = Annotated[float, _parsed(_positive), _pattern(numbers.NUMBER)]
NotNegative = Annotated[float, _parsed(_not_negative), _pattern(numbers.NUMBER)]
Alpha = Annotated[float | str, _parsed(_alpha), _pattern(numbers.NUMBER, numbers.ALPHA)]
Flag = Annotated[bool, _parsed(_flag), WithJsonSchema({"type": "boolean"})]
NonEmptyStr = Annotated[str, _parsed(_text), WithJsonSchema({"type": ["string", "integer"]})]
