"""The text of a ladder's recipe to a checked `LadderRecipe`, or every problem in it at once. Called by `api` and `cli`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from pydantic import ValidationError

from peftodyssey.errors import InputError, Problem, RecipeError
from peftodyssey.recipe import bundled, validation_errors
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.recipe.corpus_names import absolute, corpus_name, corpus_source, is_path
from peftodyssey.recipe.load import read_text, shape_problems
from peftodyssey.recipe.overrides import apply as apply_overrides
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.recipe.schema_texts import NAME, Corpus
from peftodyssey.recipe.yaml_tree import Path, Tree, format_path, read_tree

UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"), (1, ""))


def is_ladder(recipe: str | FilePath) -> bool:
    """Whether a file, a shipped name or a text is the recipe of a ladder; False too where it cannot be read."""
    text = str(recipe)
    if "\n" in text:
        return bundled.is_ladder(text)
    if text in dict(bundled.ladders()) and not FilePath(text).exists():
        return True
    try:
        return bundled.is_ladder(FilePath(text).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def load_ladder(recipe: str | FilePath, overrides: Sequence[str] = (), where: str | None = None) -> LadderRecipe:
    """The ladder's recipe in a file, in a text, or shipped under a name, with `--set` overrides applied.

    Raises RecipeError with every problem, each with its place; InputError where the file is none or cannot be read.
    """
    if str(recipe) in dict(bundled.ladders()) and not FilePath(str(recipe)).exists():
        recipe = bundled.path(str(recipe))
    text, name, folder = read_text(recipe, where)
    tree = read_tree(text, name)
    found = list(tree.problems)
    if not isinstance(tree.data, dict):
        raise RecipeError(found or shape_problems(tree, name, LadderRecipe))
    if tree.data.get("kind") != "ladder":
        raise InputError(
            f"{name} is not the recipe of a ladder: it has no line `kind: ladder`",
            f"for a study: peftodyssey run {recipe}",
        )
    found += apply_overrides(tree, tuple(overrides))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", FilePath(name).stem).strip("-._")
    if re.match(NAME, stem):
        tree.data.setdefault("name", stem)
    checked = _validated(tree, found)
    found += [_placed(tree, path, *words) for path, *words in _findings(checked)] if checked else []
    if found or checked is None:
        raise RecipeError(found)
    checked._tree, checked._source_text, checked._where, checked._folder = tree, text, name, folder
    return checked


def _validated(tree: Tree, found: list[Problem]) -> LadderRecipe | None:
    try:
        return LadderRecipe.model_validate(tree.data)
    except ValidationError as error:
        found += [problem for _, problem in validation_errors.problems(error, tree, LadderRecipe)]
        return None


def _placed(tree: Tree, path: Path, what: str, got: str = "", allowed: str = "", next_step: str = "") -> Problem:
    place = tree.place(path)
    return Problem(place.where, place.line, place.column, format_path(path), what, got, allowed, next_step)


def _findings(recipe: LadderRecipe) -> Iterator[tuple[Path, str, str, str, str] | tuple[Path, str]]:
    """What values may not be together: (path, what, got, allowed, next step)."""
    train, model = recipe.train, recipe.model
    if train.seq_len > model.positions:
        yield (
            ("train", "seq_len"),
            "longer than the model's positions",
            str(train.seq_len),
            f"up to {model.positions}",
            "",
        )
    for arm in ("trunk", "annealed"):
        for place, tokens in enumerate(getattr(recipe.rungs, arm)):
            path: Path = ("rungs", arm, place)
            if arm == "annealed":
                least = (train.warmup_steps + 1) * train.batch_tokens / (1 - recipe.rungs.decay)
                what = "the branch would leave the trunk during its warm-up"
            else:
                least, what = train.batch_tokens, "less than one step"
            if tokens < least:
                yield (
                    path,
                    what,
                    rung_label(tokens),
                    f"at least {least:,.0f} tokens",
                    "raise it, or lower train.warmup_steps",
                )
    for key in ("text", "held_out"):
        yield from _corpora(getattr(recipe, key), key)


def _corpora(corpora: Sequence[Corpus], key: str) -> Iterator[tuple[Path, str, str, str, str] | tuple[Path, str]]:
    names: set[str] = set()
    for place, corpus in enumerate(corpora):
        path: Path = (key, place)
        if (corpus.source is None) == (corpus.path is None):
            yield (
                path,
                "a text has one of `source` and `path`",
                "",
                "",
                "write `path: data/*.jsonl` or `source: bundled/<name>`",
            )
        elif len(corpus.newline) > 1:
            yield (*path, "newline"), "this text is read one way", ", ".join(corpus.newline), "", "name one policy"
        elif corpus_name(corpus) in names:
            yield (
                path,
                f"two texts are called {corpus_name(corpus)}",
                corpus_source(corpus),
                "",
                "give one of them another `name:`",
            )
        names.add(corpus_name(corpus))


def point_of(corpus: Corpus, recipe: LadderRecipe) -> CorpusSpec:
    """A text of the recipe with its short name and absolute path."""
    source, split = corpus_source(corpus), corpus.split
    parts = {} if split is None else {"train": split.train, "valid": split.valid, "test": split.test}
    return CorpusSpec(
        name=corpus_name(corpus),
        source=absolute(source, recipe.folder) if is_path(corpus) else source,
        field=corpus.field,
        config=corpus.config,
        split={key: value for key, value in parts.items() if value is not None},
        newline=corpus.newline[0],
        revision=corpus.revision,
    )


def rung_label(tokens: int) -> str:
    """A budget as the name of a rung writes it: exact, in the largest unit that leaves no fraction (1024M, 64M, 200k)."""
    width, unit = next((width, unit) for width, unit in UNITS if tokens % width == 0 and tokens >= width)
    return f"{tokens // width}{unit}"
