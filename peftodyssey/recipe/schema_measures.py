"""What a recipe measures, as pydantic classes: words, or one-key mappings of a word and its options.

A new measure with options is one class and one field of `MeasureOptions`.
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
    """Weight noise: how much the loss rises when noise of a given size is added to the base's weights."""

    gammas: Annotated[tuple[Positive, ...], OrList()] = Field(
        default=(0.05, 0.1, 0.2, 0.4),
        description="Sizes of the noise: its standard deviation in units of `scale`; a list of numbers.",
    )
    pairs: PositiveInt = Field(
        default=5,
        description="Antithetic pairs (+eps and -eps) of each size; their numbers are the seeds. An interval needs 2; "
        "5 give a good one.",
    )
    scale: Literal["initializer", "fan_in", "earliest_rung", "relative"] = Field(
        default="initializer",
        description="Standard deviation that gamma multiplies: the config's initializer_range, 1/sqrt(fan_in), or the "
        "root mean square of the tensor, on the earliest rung of the recipe or (relative) on the base itself, which "
        "ignores the growth of the weights over pretraining; a word.",
    )
    ranks: Annotated[tuple[RankOrFull, ...], OrList(empty=True)] = Field(
        default=(),
        description="Ranks of low-rank noise with the Frobenius norm of the Gaussian noise, tensor by tensor; `full` "
        "is the Gaussian noise, which is always measured; a list.",
    )
    updates: Flag = Field(
        default=False,
        description="Whether the updates of the recipe's full and LoRA cells are measured too: rescaled to the norm "
        "of the noise, and the smallest step along them that raises the loss; true or false.",
    )
    tensors: Annotated[tuple[Literal["blocks", "embeddings", "head"], ...], OrList()] = Field(
        default=("blocks",),
        description="Tensors to which noise is added: matrices of the decoder layers, embeddings, head; a list of "
        "words. Norms and biases stay as they are.",
    )
    quantisers: Annotated[tuple[Literal["nf4", "fp4", "int8"], ...], OrList(empty=True)] = Field(
        default=(),
        description="Quantisations of the same tensors, measured like noise: nf4, fp4, int8; a list of words.",
    )
    sharpness: Flag = Field(
        default=False,
        description="Critical sharpness: whether the smallest step against the base's own gradient that raises the "
        "loss is looked for; needs memory for that gradient; true or false.",
    )
    documents: PositiveInt = Field(
        default=48,
        description="Documents of each text that are scored, in their first window; an interval needs 30 or more.",
    )


class Similarity(RecipeSection):
    """Similarity to the pretraining text: distances of each domain's test split from `pretraining_text`."""

    layer: StrictInt = Field(
        default=-1,
        description="Decoder layer whose hidden states are averaged over each chunk: 0 the embeddings, 1 the first, "
        "-1 the last; a whole number.",
    )
    chunks: PositiveInt = Field(
        default=200,
        description="Chunks of each text and of each half of the sample; all have as few as the text with the fewest.",
    )
    chunk_tokens: PositiveInt = Field(
        default=64, description="Tokens of a chunk, at least 16; a chunk lies within one document."
    )


class MeasureOptions(RecipeSection):
    """A measure with options: a mapping with the measure's word as its only key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    noise: Noise | None = Field(default=None, description="Sensitivity of the base to weight noise; a mapping.")
    similarity: Similarity | None = Field(
        default=None, description="Similarity of each domain to the pretraining text; a mapping."
    )

    @model_validator(mode="after")
    def _one(self) -> MeasureOptions:
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
    return "options" if isinstance(value, (dict, MeasureOptions)) else "word"


Measure = Annotated[Annotated[Word, Tag("word")] | Annotated[MeasureOptions, Tag("options")], Discriminator(_kind)]
