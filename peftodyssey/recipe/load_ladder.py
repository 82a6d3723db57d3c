"""The text of a ladder's recipe as a checked `LadderRecipe`, or every problem in it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from peftodyssey.errors import InputError, Problem
from peftodyssey.recipe import bundled
from peftodyssey.recipe.checks_names import corpus_problems
from peftodyssey.recipe.load import check_document, read_document
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.untrusted import limits

UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"), (1, ""))


def is_ladder(recipe: str | FilePath) -> bool:
    """Whether a file, a bundled name or a text is the recipe of a ladder; False too where it cannot be read."""
    text = str(recipe)
    if "\n" in text:
        return bundled.is_ladder(text)
    if text in dict(bundled.ladders()) and not FilePath(text).exists():
        return True
    try:
        content = limits.read_bytes(FilePath(text).expanduser(), limits.RECIPE_BYTES)
        return bundled.is_ladder(content.decode("utf-8"))
    except (OSError, ValueError):
        return False


def load_ladder(recipe: str | FilePath, overrides: Sequence[str] = (), where: str | None = None) -> LadderRecipe:
    """The ladder's recipe in a file, in a text, or bundled under a name, with `--set` overrides applied.

    Raises RecipeError with every problem, each with its place; InputError where the file is none or cannot be read.
    """
    tree = read_document(recipe, where, LadderRecipe)
    if tree.data.get("kind") != "ladder":
        raise InputError(
            f"{tree.where} is not the recipe of a ladder: it has no line `kind: ladder`",
            f"for a study: peftodyssey run {recipe}",
        )
    return check_document(tree, LadderRecipe, overrides, _problems)


def _problems(recipe: LadderRecipe) -> Iterator[Problem]:
    """What is wrong between the values of a ladder's recipe."""
    train, positions = recipe.train, recipe.model.positions
    if train.seq_len > positions:
        what = "longer than the model's positions"
        yield recipe.problem(("train", "seq_len"), what, got=str(train.seq_len), allowed=f"up to {positions}")
    for arm in ("trunk", "annealed"):
        for place, tokens in enumerate(getattr(recipe.rungs, arm)):
            if arm == "annealed":
                least = (train.warmup_steps + 1) * train.batch_tokens / (1 - recipe.rungs.decay)
                what = "the branch would leave the trunk during its warm-up"
            else:
                least, what = train.batch_tokens, "less than one step"
            if tokens < least:
                yield recipe.problem(
                    ("rungs", arm, place),
                    what,
                    got=rung_label(tokens),
                    allowed=f"at least {least:,.0f} tokens",
                    next_step="raise it, or lower train.warmup_steps",
                )
    yield from corpus_problems(recipe, {"text": recipe.text})
    yield from corpus_problems(recipe, {"held_out": recipe.held_out})


def rung_label(tokens: int) -> str:
    """A budget as the name of a rung writes it: exact, in the largest unit that leaves no fraction (1024M, 200k)."""
    width, unit = next((width, unit) for width, unit in UNITS if tokens % width == 0 and tokens >= width)
    return f"{tokens // width}{unit}"
