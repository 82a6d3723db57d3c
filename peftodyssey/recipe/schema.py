"""The recipe as pydantic classes: every key, its default, and a sentence with its unit.

The classes say what one value may be; `recipe.checks` says what several may be together.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model

from peftodyssey.recipe.document import RecipeDocument
from peftodyssey.recipe.field_syntax import OrList, Shorthand
from peftodyssey.recipe.field_types import NonNegativeInt, RecipeSection
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema_measures import MeasureOptions, item_type, options_class
from peftodyssey.recipe.schema_methods import AnyMethod
from peftodyssey.recipe.schema_texts import Corpora, Corpus, Model, Name, Task
from peftodyssey.recipe.schema_training import Score, Train


class Recipe(RecipeDocument):
    """The recipe of a study: models, texts, methods, and how they are trained and scored."""

    specs: ClassVar[tuple[MeasureSpec, ...]] = ()  # of the measures that it may ask for; see `recipe_class`

    version: Literal[1] = Field(default=1, description="Version of the recipe's language; 1.")
    name: Name = Field(
        default="recipe", description="Name of the study; letters, digits, `._-`. Default: the file's name."
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], OrList()] = Field(
        default=(0,),
        description="Seeds of the data order and of the adapter's initialisation; axis, whole numbers from 0.",
    )
    model: Annotated[tuple[Annotated[Model, Shorthand("name")], ...], OrList()] = Field(
        description="The base model, or a list of base models; axis."
    )
    domains: Corpora = Field(description="Datasets to fine-tune on, each by itself; axis.")
    general: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(Corpus(source="bundled/wiki_general"),),
        description="General text, on which forgetting is measured; a list of datasets.",
    )
    pretraining_text: Annotated[Corpus, Shorthand("source")] | None = Field(
        default=None,
        description="A sample of the text that the base was pretrained on, for measures that count tokens in it or "
        "compare each domain with it; a dataset.",
    )
    methods: Annotated[tuple[Annotated[AnyMethod, Shorthand("method")], ...], OrList()] = Field(
        description="Fine-tuning methods to compare; axis."
    )
    train: Train = Field(
        default=Train(), description="How each cell is trained: budget, batch size, schedule, optimiser; a mapping."
    )
    score: Score = Field(
        default=Score(), description="How held-out text is scored: context, stride, number of tokens; a mapping."
    )
    measure: Annotated[tuple[str | MeasureOptions, ...], OrList()] = Field(
        default=("degradation", "forgetting", "tokens"),
        description="What is measured and reported; a list of words, or of words with options such as ",
    )
    tasks: Annotated[tuple[Annotated[Task, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(),
        description="Multiple-choice tasks, scored before and after training by the likeliest choice; a list of tasks.",
    )

    @property
    def measured(self) -> tuple[str, ...]:
        """The words of `measure`, without their options."""
        return tuple(item if isinstance(item, str) else item.word for item in self.measure)

    @property
    def asked(self) -> tuple[MeasureSpec, ...]:
        """The measures that the recipe asks for, by their word or by other keys."""
        return tuple(
            spec
            for spec in self.specs
            if spec.name in self.measured or (spec.asked_by is not None and spec.asked_by(self))
        )

    def options(self, spec: MeasureSpec) -> RecipeSection | None:
        """The options of a measure, its defaults where none are written; None where it is not asked for."""
        written = (
            getattr(item, spec.name) for item in self.measure if not isinstance(item, str) and item.word == spec.name
        )
        return next(written, spec.options()) if spec in self.asked else None


@functools.cache
def recipe_class(specs: tuple[MeasureSpec, ...]) -> type[Recipe]:
    """`Recipe` with the words and options of these measures under `measure`."""
    field = Recipe.model_fields["measure"]
    options = options_class(specs)
    item: Any = item_type(specs, options)
    described: Any = (
        Annotated[tuple[item, ...], OrList()],
        Field(default=field.default, description=f"{field.description}{options.example}."),
    )
    recipe = create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, measure=described)
    recipe.specs = specs
    return recipe


def json_schema(specs: tuple[MeasureSpec, ...]) -> dict[str, Any]:
    """The JSON Schema that editors check recipes with, from the classes above."""
    schema = recipe_class(specs).model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "peftodyssey recipe",
        **{k: v for k, v in schema.items() if k != "title"},
    }
