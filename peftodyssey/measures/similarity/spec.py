"""How a recipe asks for similarity to the pretraining text, and its options."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, StrictInt

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_types import PositiveInt, RecipeSection
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe

MIN_CHUNK_TOKENS = 16


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


def _problems(recipe: Recipe) -> Iterator[Problem]:
    similarity, depends_on = recipe.options(SPEC), (("pretraining_text",),)
    if not isinstance(similarity, Similarity):
        return
    if recipe.pretraining_text is None:
        yield recipe.problem(
            ("measure",),
            "similarity is measured against the pretraining text, and there is none",
            next_step="add pretraining_text: a sample of what the base was pretrained on (bundled/pretrain_sample for "
            "bundled/odyssey-3m), or remove similarity from measure",
            depends_on=depends_on,
        )
    if similarity.chunk_tokens < MIN_CHUNK_TOKENS:
        yield recipe.problem(
            ("measure",),
            "chunks are too short to tell texts apart",
            got=f"chunk_tokens: {similarity.chunk_tokens}",
            allowed=f"{MIN_CHUNK_TOKENS} tokens or more",
            depends_on=depends_on,
        )


SPEC = MeasureSpec("similarity", Similarity, needs_pretraining_text=True, problems=_problems)
