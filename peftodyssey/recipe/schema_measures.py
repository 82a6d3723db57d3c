"""What a recipe measures, as pydantic classes: words, or one-key mappings of a word and its options. Used by
`recipe.schema`.

A new measure with options is one class and one field of `Measured`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    WithJsonSchema,
    model_validator,
)

from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import Flag, Positive, PositiveInt, RecipeSection, refuse

Word = Literal["degradation", "forgetting", "tokens", "transfer", "noise", "geometry", "similarity"]


def _rank(value: Any) -> Any:
    return None if value == "full" else value


RankOrFull = Annotated[
    PositiveInt | None,
    BeforeValidator(_rank),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "enum": ["full"]}]}),
]


class Noise(RecipeSection):
    """Noise of the weights: how much the loss rises when the base's weights are shifted by a given amount."""

    gammas: Annotated[tuple[Positive, ...], OrList()] = Field(
        default=(0.05, 0.1, 0.2, 0.4),
        description="Sizes of the noise: standard deviations in units of `scale`; a list of numbers.",
    )
    pairs: PositiveInt = Field(
        default=5,
        description="Antithetic pairs (+eps and -eps) of each size; their numbers are the seeds. 2 for an interval, 5 for a good one.",
    )
    scale: Literal["initializer", "fan_in", "earliest_rung", "relative"] = Field(
        default="initializer",
        description="Standard deviation of a tensor that gamma multiplies: the configuration's initializer_range, 1/sqrt(fan_in), the root "
        "mean square of the tensor on the earliest rung of the recipe, or (relative) on the base itself, which divides the growth of the "
        "weights out and is another experiment; a word.",
    )
    ranks: Annotated[tuple[RankOrFull, ...], OrList(empty=True)] = Field(
        default=(),
        description="Ranks of noise that has the Frobenius norm of the Gaussian one, tensor by tensor; `full` is the Gaussian one, which is "
        "always measured; a list.",
    )
    updates: Flag = Field(
        default=False,
        description="Whether the updates of the recipe's full and LoRA cells are measured too: rescaled to the length of the noise, and the "
        "smallest step along them that raises the loss; a switch.",
    )
    tensors: Annotated[tuple[Literal["blocks", "embeddings", "head"], ...], OrList()] = Field(
        default=("blocks",),
        description="What is shifted: the matrices of the decoder layers, the embeddings, the head; a list of words. Norms and biases start "
        "as constants and are left alone.",
    )
    quantisers: Annotated[tuple[Literal["nf4", "fp4", "int8"], ...], OrList(empty=True)] = Field(
        default=(),
        description="Roundings of the same tensors that are measured as shifts of the weights: nf4, fp4, int8; a list of words.",
    )
    sharpness: Flag = Field(
        default=False,
        description="Whether the smallest step against the base's own gradient that raises the loss is looked for; needs the memory of that "
        "gradient; a switch.",
    )
    documents: PositiveInt = Field(
        default=48,
        description="Documents of each text that noise is scored on, of which the first window is read; 30 or more of a length give an interval.",
    )


class Similarity(RecipeSection):
    """Likeness to the pretraining text: distances of each domain's test part from `pretraining_text`, on equal counts
    of chunks.
    """

    layer: StrictInt = Field(
        default=-1,
        description="Decoder layer whose hidden states are meant over each chunk: 0 the embeddings, 1 the first, -1 the last; a whole number.",
    )
    chunks: PositiveInt = Field(
        default=200,
        description="Chunks of each text, and of each half of the sample; fewer for all where one of them has fewer.",
    )
    chunk_tokens: PositiveInt = Field(
        default=64, description="Tokens of a chunk, from 16; chunks lie within documents."
    )


class Measured(RecipeSection):
    """A measure with options: a mapping with the measure's word as its only key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    noise: Noise | None = Field(default=None, description="Sensitivity of the base to noise of its weights; a mapping.")
    similarity: Similarity | None = Field(
        default=None, description="Likeness of each domain to the pretraining text; a mapping."
    )

    @model_validator(mode="after")
    def _one(self) -> Measured:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise refuse(
                "an item of measure is a word, or one word with its options", "noise, or {noise: {gammas: [0.1, 0.2]}}"
            )
        return self

    @property
    def word(self) -> str:
        """The measure's name."""
        return next(iter(self.model_fields_set))


def _kind(value: Any) -> str:
    return "options" if isinstance(value, (dict, Measured)) else "word"


Measure = Annotated[Annotated[Word, Tag("word")] | Annotated[Measured, Tag("options")], Discriminator(_kind)]


def words(measures: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of the measures, options left out."""
    return tuple(item.word if isinstance(item, Measured) else item for item in measures)


def noise(measures: tuple[Any, ...]) -> Noise | None:
    """The options of `noise`, None where it is not measured."""
    options = next((item.noise for item in measures if isinstance(item, Measured) and item.noise), None)
    return options or (Noise() if "noise" in measures else None)


def similarity(measures: tuple[Any, ...]) -> Similarity | None:
    """The options of `similarity`, None where it is not measured."""
    options = next((item.similarity for item in measures if isinstance(item, Measured) and item.similarity), None)
    return options or (Similarity() if "similarity" in measures else None)
