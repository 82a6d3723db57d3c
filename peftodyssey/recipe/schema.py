"""The recipe as pydantic classes: every key, its default, and a sentence with its unit.

Called by `recipe.load` and `recipe.grid`. The classes say what one value may be; `recipe.checks` what several may be
together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from peftodyssey.errors import Problem
from peftodyssey.recipe import schema_measures
from peftodyssey.recipe.field_syntax import OrList, Shorthand
from peftodyssey.recipe.field_types import NonNegativeInt, RecipeSection
from peftodyssey.recipe.schema_methods import AnyMethod
from peftodyssey.recipe.schema_texts import Corpora, Corpus, Model, Name, Task
from peftodyssey.recipe.schema_training import Score, Train
from peftodyssey.recipe.yaml_tree import Path, SourceLocation, Tree, format_path


class Recipe(RecipeSection):
    """A whole recipe, checked. `source_text` is the text it came from, `where` its file, `warnings` what deserves a
    look.
    """

    version: Literal[1] = Field(default=1, description="Version of the recipe's language; 1.")
    name: Name = Field(
        default="recipe", description="Name of the study; letters, digits, `._-`. Default: the file's name."
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], OrList()] = Field(
        default=(0,), description="Seeds of data order and adapter start; axis, whole numbers from 0."
    )
    model: Annotated[tuple[Annotated[Model, Shorthand("name")], ...], OrList()] = Field(
        description="The base model, or a list of them; axis."
    )
    domains: Corpora = Field(description="Texts to adapt to; axis.")
    general: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(Corpus(source="bundled/wiki_general"),),
        description="Texts on which forgetting is measured; a list of texts.",
    )
    pretraining_text: Annotated[Corpus, Shorthand("source")] | None = Field(
        default=None,
        description="A sample of the text that the base was pretrained on, in which `measure: tokens` counts tokens and which `measure: similarity` compares each domain with; a text.",
    )
    methods: Annotated[tuple[Annotated[AnyMethod, Shorthand("method")], ...], OrList()] = Field(
        description="Constraints on the update to compare; axis."
    )
    train: Train = Field(default=Train(), description="How each cell is trained; a mapping.")
    score: Score = Field(default=Score(), description="How held-out text is scored; a mapping.")
    measure: Annotated[tuple[schema_measures.Measure, ...], OrList()] = Field(
        default=("degradation", "forgetting", "tokens"),
        description="What the report states; a list of words, or of words with options such as {noise: {pairs: 5}}.",
    )

    tasks: Annotated[tuple[Annotated[Task, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(),
        description="Prompts with choices, answered before and after by the likeliest choice; a list of tasks.",
    )

    _tree: Tree = PrivateAttr(default_factory=Tree)
    _source_text: str = PrivateAttr("")
    _where: str = PrivateAttr("recipe")
    _folder: str = PrivateAttr(".")
    _warnings: tuple[Problem, ...] = PrivateAttr(())

    @property
    def measured(self) -> tuple[str, ...]:
        """The words of `measure`, options left out."""
        return schema_measures.words(self.measure)

    @property
    def noise(self) -> schema_measures.Noise | None:
        """How noise of the weights is measured, None where it is not."""
        return schema_measures.noise(self.measure)

    @property
    def similarity(self) -> schema_measures.Similarity | None:
        """How likeness to the pretraining text is measured, None where it is not."""
        return schema_measures.similarity(self.measure)

    @property
    def source_text(self) -> str:
        """The text as it was given."""
        return self._source_text

    @property
    def where(self) -> str:
        """The file's name, or what stood in for it."""
        return self._where

    @property
    def folder(self) -> str:
        """The absolute folder that relative paths start from."""
        return self._folder

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed but deserves a look."""
        return self._warnings

    @property
    def data(self) -> dict[str, Any]:
        """The plain values as written, overrides applied."""
        return self._tree.data

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path` or its nearest ancestor; (0, 0) where an override set it."""
        place = self._tree.place(path)
        return place.line, place.column

    def problem(
        self,
        path: Path,
        what: str,
        *,
        got: str = "",
        allowed: str = "",
        next_step: str = "",
        severity: str = "error",
    ) -> Problem:
        """A `Problem` at the place of `path`, for checks that need more than the recipe."""
        place: SourceLocation = self._tree.place(path)
        return Problem(
            place.where, place.line, place.column, format_path(path), what, got, allowed, next_step, severity
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema that editors check recipes with, from the classes above."""
    schema = Recipe.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "peftodyssey recipe",
        **{k: v for k, v in schema.items() if k != "title"},
    }
