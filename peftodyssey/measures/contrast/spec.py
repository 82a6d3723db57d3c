"""How a recipe asks for the comparison of methods with each other, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import Positive, RecipeSection
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


class Contrast(RecipeSection):
    """Comparison of methods with each other: paired differences of learning and forgetting, with verdicts."""

    pairs: Annotated[tuple[tuple[str, str], ...], OrList(empty=True)] = Field(
        default=(),
        description="Pairs of methods, the second subtracted from the first, by their names or labels; a list such as "
        "[[lora, full], [qlora r=8, lora r=8]]. Default: every method with full fine-tuning, and qlora with lora.",
    )
    margin: Positive = Field(
        default=0.01,
        description="The largest difference that is called equal, nats per token; a number.",
    )


def _asked(recipe: Recipe) -> bool:
    return "forgetting" in recipe.measured and len(recipe.methods) > 1 and bool(recipe.general)


def _problems(recipe: Recipe) -> Iterator[Problem]:
    options = recipe.options(SPEC)
    names = {method.method for method in recipe.methods}
    if not isinstance(options, Contrast) or "peft" in names:
        return
    for name in dict.fromkeys(name for pair in options.pairs for name in pair):
        if name.split(" ")[0] not in names:
            yield recipe.problem(
                ("measure",),
                f"contrast compares {name!r}, which is not a method of this recipe",
                got=name,
                allowed=", ".join(sorted(names)),
                next_step="name methods of the recipe in pairs",
                depends_on=(("methods",),),
            )


SPEC = MeasureSpec("contrast", Contrast, needs_general=True, asked_by=_asked, problems=_problems)
