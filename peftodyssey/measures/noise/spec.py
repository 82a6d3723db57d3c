"""How a recipe asks for weight noise, and its options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import Flag, Positive, PositiveInt, RecipeSection
from peftodyssey.recipe.measure_spec import MeasureSpec


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
        description="Antithetic pairs (+eps and -eps) of each size; their numbers are the seeds. "
        "An interval over pairs and a verdict need 3; 5 give a good one.",
    )
    scale: Literal["initializer", "published", "fan_in", "earliest_rung", "relative"] = Field(
        default="initializer",
        description="Standard deviation that gamma multiplies: the config's initializer_range, that of each tensor in "
        "the published initialisation (OLMo, GPT-NeoX and Pythia, GPT-2), 1/sqrt(fan_in), or the root mean square of "
        "the tensor, on the earliest rung of the recipe or (relative) on the base itself, which ignores the growth of "
        "the weights over pretraining; a word.",
    )
    ranks: Annotated[tuple[RankOrFull, ...], OrList(empty=True)] = Field(
        default=(),
        description="Ranks of low-rank noise with the Frobenius norm of the Gaussian noise, tensor by tensor; `full` "
        "is the Gaussian noise, which is always measured; a list.",
    )
    updates: Flag = Field(
        default=False,
        description="Whether the updates of the recipe's full, truncated and LoRA cells are measured too: rescaled to "
        "the norm of the noise, and the smallest step along them that raises the loss; true or false.",
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


SPEC = MeasureSpec("noise", Noise, "{gammas: [0.1, 0.2]}", needs_general=True, needs_unquantised_base=True)
