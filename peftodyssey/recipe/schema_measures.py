"""`measure` of a recipe as pydantic classes: words, or one-key mappings of a word and its options.

The words and the classes of their options are those of the measures that the caller hands down.
"""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, create_model, model_validator

from peftodyssey.recipe.field_types import RecipeSection, refuse
from peftodyssey.recipe.measure_spec import MeasureSpec, NoOptions


class MeasureOptions(RecipeSection):
    """A measure with options: a mapping with the measure's word as its only key."""

    example: ClassVar[str] = "{word: {option: value}}"
    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    @model_validator(mode="after")
    def _one(self) -> MeasureOptions:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise refuse("an item of measure is a word, or one word with its options", f"a word, or {self.example}")
        return self

    @property
    def word(self) -> str:
        """The measure's name."""
        return next(iter(self.model_fields_set))


@functools.cache
def options_class(specs: tuple[MeasureSpec, ...]) -> type[MeasureOptions]:
    """`MeasureOptions` with a field for each measure that has options."""
    fields: dict[str, Any] = {
        spec.name: (spec.options | None, Field(default=None, description=_sentence(spec.options)))
        for spec in specs
        if spec.is_word and spec.options is not NoOptions
    }
    options = create_model("MeasureOptions", __base__=MeasureOptions, __doc__=MeasureOptions.__doc__, **fields)
    examples = (f"{{{spec.name}: {spec.example}}}" for spec in specs if spec.example)
    options.example = next(examples, MeasureOptions.example)
    return options


def item_type(specs: tuple[MeasureSpec, ...], options: type[MeasureOptions]) -> Any:
    """The type of one item of `measure`: a word, or a word with its options."""
    word: Any = Literal[tuple(spec.name for spec in specs if spec.is_word)]
    return Annotated[Annotated[word, Tag("word")] | Annotated[options, Tag("options")], Discriminator(_kind)]


def _sentence(options: type[RecipeSection]) -> str:
    """The first clause of a class's docstring, as the description of its key."""
    return (inspect.getdoc(options) or "").split(":")[0] + "; a mapping."


def _kind(value: Any) -> str:
    return "options" if isinstance(value, (dict, MeasureOptions)) else "word"
