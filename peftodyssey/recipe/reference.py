"""Every key of a recipe as Markdown, from the classes of the schema, for `docs/recipes.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from peftodyssey.recipe.field_syntax import LearningRateSpec
from peftodyssey.recipe.field_types import RecipeSection
from peftodyssey.recipe.foreign_names import FOREIGN_NAMES
from peftodyssey.recipe.measure_spec import MeasureSpec, NoOptions
from peftodyssey.recipe.schema import recipe_class
from peftodyssey.recipe.schema_constraints import EarlyStop
from peftodyssey.recipe.schema_ladder import LadderModel, LadderRecipe, LadderRungs, LadderTrain
from peftodyssey.recipe.schema_measures import options_class
from peftodyssey.recipe.schema_methods import METHOD_CLASSES
from peftodyssey.recipe.schema_rungs import Rungs
from peftodyssey.recipe.schema_texts import Columns, Corpus, Model, Split, Task
from peftodyssey.recipe.schema_training import Budget, Score, Select, Train

SECTIONS: tuple[tuple[str, type[RecipeSection]], ...] = (
    ("`model`", Model),
    ("`revisions` of a model, by tokens", Rungs),
    ("`domains`, `general` and `pretraining_text`", Corpus),
    ("`split` of a dataset", Split),
    ("`columns` of a dataset", Columns),
    *((f"`methods`: `{name}`", part) for name, part in METHOD_CLASSES.items()),
    ("`early_stop` of a method", EarlyStop),
    ("`train`", Train),
    ("`select` of `train`", Select),
    ("`score`", Score),
    ("`tasks`", Task),
)
LADDER_SECTIONS: tuple[tuple[str, type[RecipeSection]], ...] = (
    ("The recipe of a ladder", LadderRecipe),
    ("`model` of a ladder", LadderModel),
    ("`train` of a ladder", LadderTrain),
    ("`rungs` of a ladder", LadderRungs),
)
LADDER_OPENING = """\
# Recipes of ladders

`peftodyssey ladder train` takes another kind of recipe, with the line `kind: ladder`: see [ladders.md](ladders.md).
Values are written as above; a dataset has the keys of `domains`.
"""
WRITTEN_AS_VALUES = (Budget, LearningRateSpec)  # written as one value, as OPENING shows
OPENING = """\
# Recipes

Generated from the classes of the schema by `python -m peftodyssey.measures.registry recipes > docs/recipes.md`.

A recipe is one YAML file with all datasets and hyperparameters of a study. `model`, `domains` and `methods` are
required, everything else has a default. Keys that are not below are errors, and the message suggests the right one,
also for names of PEFT, transformers and TRL (last table). `peftodyssey recipes show your-text` prints a recipe with
every key in its place; `peftodyssey schema` prints the JSON Schema for editors.

A key marked *axis* takes one value or a list. The grid is the product of all lists; a cell is one point of it: one
training and its scores.

| what | how it may be written |
|---|---|
| count | `200`, `200k`, `1.5M`, `2B` (k, M, B and T are thousand, million, 10^9 and 10^12) |
| number | `0.001`, `1e-3` |
| share | `3%`, `0.03` |
| alpha | `16`, or a multiple of the rank: `2r` |
| budget | `200k tokens`, `2 epochs`, `300 steps` |
| learning rate | `1e-3`; `[1e-4, 1e-3]`: all; `{tune: [1e-4, 1e-3]}`: the best; `{tune: auto}`: a search |
| model | a name, or a mapping with the keys below |
| dataset | a name or path, or a mapping with the keys below |
| method | a name, or a mapping with the keys below |

A search goes in rounds for each text, base, method and rank: three learning rates, then one further out at a time until
the best is inside of the grid, or `max_cells` is spent: `{tune: auto, max_cells: 24}`, by default 8 for each seed.

On the command line `--set KEY=VALUE` overrides one value under the same checks, e.g. `--set methods[1].rank=[4,16]`.
"""


FOREIGN_OPENING = """\
## Names of other libraries

| key here | PEFT, transformers, TRL and others |
|---|---|
"""


def markdown(measures: tuple[MeasureSpec, ...]) -> str:
    """The reference: how values are written, a table for each part of a recipe and of a ladder's, and foreign names."""
    studies = (line for title, part in sections(measures) for line in _section(title, part))
    ladders = (line for title, part in LADDER_SECTIONS for line in _section(title, part))
    return "\n".join([OPENING, *studies, LADDER_OPENING, *ladders, FOREIGN_OPENING + _foreign_names()])


def sections(measures: tuple[MeasureSpec, ...]) -> list[tuple[str, type[RecipeSection]]]:
    """The classes of a study's recipe with their titles, those of the options of `measures` last."""
    options = [spec for spec in measures if spec.is_word and spec.options is not NoOptions]
    return [
        ("The recipe", recipe_class(measures)),
        *SECTIONS,
        ("`measure`", options_class(measures)),
        *((f"`measure`: `{spec.name}`", spec.options) for spec in options),
    ]


def _foreign_names() -> str:
    """The rows of the table of foreign names, one for each key here."""
    names: dict[str, list[str]] = {}
    for name, counterpart in FOREIGN_NAMES.items():
        names.setdefault(counterpart.key, []).append(f"`{name}`")
    return "".join(f"| `{key}` | {', '.join(names[key])} |\n" for key in sorted(names) if key)


def _section(title: str, part: type[RecipeSection]) -> Iterator[str]:
    yield from (f"## {title}", "", _first_sentence(part), "", "| key | default | what it is |", "|---|---|---|")
    fields = sorted(part.model_fields.items(), key=lambda item: (item[0] != "method", item[0] == "label"))
    yield from (f"| `{field.alias or name}` | {_default(field)} | {_meaning(field)} |" for name, field in fields)
    yield ""


def _first_sentence(part: type[RecipeSection]) -> str:
    return " ".join((inspect.getdoc(part) or "").split()).split(". ")[0].rstrip(".") + "."


def _meaning(field: FieldInfo) -> str:
    """The field's sentence, with the allowed words where the sentence leaves one out."""
    text, words = str(field.description), list(_words(field.annotation))
    if len(words) > 1 and not all(word in text for word in words):
        text += f" Words: {', '.join(f'`{word}`' for word in words)}."
    return text.replace("|", "\\|").replace("<", "&lt;")


def _words(annotation: Any) -> Iterator[str]:
    """The words of every Literal inside `annotation`."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif not isinstance(annotation, type):
        for inner in get_args(annotation):
            yield from _words(inner)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else f"`{_written(value)}`"


def _written(value: Any) -> str:
    """A default as a person would write it in a recipe."""
    if isinstance(value, LearningRateSpec):
        return _written(value.fixed)
    if isinstance(value, Budget):
        return f"{value.amount / 1000:g}k {value.unit}"
    if isinstance(value, Corpus):
        return str(value.source)
    if isinstance(value, RecipeSection):
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _written(value[0]) if len(value) == 1 else f"[{', '.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
