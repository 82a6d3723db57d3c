"""How a recipe asks for the change on the other texts that are adapted to: the word `transfer`."""

from __future__ import annotations

from collections.abc import Iterator

from peftodyssey.errors import Problem
from peftodyssey.recipe.corpus_names import corpus_name
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _problems(recipe: Recipe) -> Iterator[Problem]:
    texts = {
        (corpus_name(corpus), "keep" if newline == "mismatch" else newline)
        for corpus in recipe.domains
        for newline in corpus.newline
    }
    if SPEC in recipe.asked and len(texts) < 2:
        yield recipe.problem(
            ("measure",),
            "transfer is what adapting to one text does to the others, and there is only one text",
            next_step="add a text to domains, or remove transfer from measure",
            severity="warning",
            depends_on=(("domains",),),
        )


SPEC = MeasureSpec("transfer", problems=_problems)
