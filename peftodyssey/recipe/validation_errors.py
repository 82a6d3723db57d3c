"""A pydantic error as a `Problem` that a person can act on: place, words, what is allowed, nearest spelling."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_types import written_keys
from peftodyssey.recipe.foreign_names import FOREIGN_NAMES, LADDER_NAMES, NO_COUNTERPART, Counterpart
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_methods import METHOD_CLASSES
from peftodyssey.recipe.yaml_tree import Path, Tree

_QUANTISED_FULL = "full fine-tuning trains every weight, so none can be quantised: use lora or qlora"
MISPLACED = {
    ("full", "quant"): _QUANTISED_FULL,
    ("full", "double_quant"): _QUANTISED_FULL,
    ("full", "rank"): "full fine-tuning has no rank: use lora",
    ("truncate", "lr"): "`truncate` has the learning rates of `full`: remove lr",
    ("saved", "lr"): "`saved` is scored, not trained: remove lr",
    ("saved", "rank"): "the rank is read from the saved adapter: remove it",
    ("lora", "layers"): "use `targets` to choose modules, or the method last_layers",
}
_KINDS = {
    "dict_type": "a mapping is needed: `key: value` lines",
    "model_type": "a mapping is needed: `key: value` lines",
    "string_type": "text is needed",
    "tuple_type": "a list is needed",
    "list_type": "a list is needed",
}
_MISSING = {
    "model": "add a line such as `model: bundled/odyssey-3m`",
    "domains": "add `domains: [bundled/wiki_history_events]`, or the path of your own text",
    "methods": "add `methods: [full, {method: lora, rank: 8}]`",
    "path": "add `path: ` with the folder of the adapter",
    "peft_type": "add `peft_type: ` with a type such as VERA",
}
_TEXTS = ("domains", "general", "pretraining_text", "text", "held_out")  # keys that hold a text or a list of them


def nearest(word: Any, known: Iterable[str]) -> str:
    """`did you mean x?` for the known word closest to `word`, or nothing."""
    known = list(known)
    close = get_close_matches(str(word).lower(), known, 1, 0.6) or get_close_matches(str(word), known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else ""


def problems(error: ValidationError, tree: Tree, root: type[BaseModel]) -> dict[Path, Problem]:
    """Every pydantic error of a `root`: its `Problem` by the path that is at fault, one for each path."""
    by_path: dict[Path, Problem] = {}
    for item in error.errors(include_url=False):
        path = tree.written(item["loc"])
        key = (*path, item["loc"][-1]) if item["type"] == "missing" else path
        by_path.setdefault(key, _problem(item, path, tree, root))
    return by_path


def _problem(item: Any, path: Path, tree: Tree, root: type[BaseModel]) -> Problem:
    value = tree.at(path)
    if item["type"] == "extra_forbidden":
        return _unknown_key(path, tree, root)
    if item["type"] == "missing":
        return _missing(item["loc"][-1], path, tree)
    if item["type"] in ("union_tag_invalid", "union_tag_not_found") and value is not None:
        return _method(value, path, tree)
    context = item.get("ctx", {})
    what, allowed, hint = _KINDS.get(item["type"], item["msg"]), "", ""
    if value is None:
        what, hint = "it has no value", "give it one, or delete the line for the default"
        allowed = context.get("allowed", "")
    elif item["type"] == "recipe":
        what, allowed, hint = context["what"], context["allowed"], context["next_step"]
    elif item["type"] == "literal_error":
        words = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(",")]
        what, allowed, hint = "not one of the allowed values", ", ".join(words), nearest(value, words)
    elif item["type"] == "too_long":
        what = f"the list has {context['actual_length']} values, not {context['max_length']}"
    return tree.problem(path, what, got=_shortened(value), allowed=allowed, next_step=hint)


def _method(value: Any, path: Path, tree: Tree) -> Problem:
    if isinstance(value, dict) and "method" in value:
        path, value = (*path, "method"), value["method"]
    elif not isinstance(value, str):
        what, hint = "the item does not say which method it is", "write `- {method: lora, rank: 8}`"
        return tree.problem(path, what, got=_shortened(value), allowed=", ".join(METHOD_CLASSES), next_step=hint)
    hint = nearest(value, METHOD_CLASSES)
    return tree.problem(
        path, "no such method", got=_shortened(value), allowed=", ".join(METHOD_CLASSES), next_step=hint
    )


def _missing(key: str | int, path: Path, tree: Tree) -> Problem:
    if isinstance(key, int):
        return tree.problem(path, "the list is too short", got=_shortened(tree.at(path)))
    return tree.problem((*path, key), "missing", next_step=_MISSING.get(key, f"add `{key}: `"))


def _unknown_key(path: Path, tree: Tree, root: type[BaseModel]) -> Problem:
    owner, key = path[:-1], str(path[-1])
    known = keys_at(tree, owner, root)
    method = tree.at(owner).get("method")
    counterpart = (FOREIGN_NAMES if issubclass(root, Recipe) else LADDER_NAMES).get(key)
    own_name = counterpart.key.rsplit(".", 1)[-1] if counterpart else key
    what = "no such key"
    if isinstance(method, str) and (method, own_name) in MISPLACED:
        what, hint = f"the method {method} does not have this key", MISPLACED[method, own_name]
    elif counterpart:
        hint = _counterpart_hint(counterpart, owner, known)
    elif key in NO_COUNTERPART:
        hint = "remove it: this setting of other libraries has no counterpart in a recipe"
    else:
        hint = _where_it_belongs(key, root) or nearest(key, known) or "remove it"
    problem = tree.problem(path, what, allowed=", ".join(known), next_step=hint)
    place = tree.place(path, prefer_key=True)
    return replace(problem, where=place.where, line=place.line, column=place.column)


def _counterpart_hint(counterpart: Counterpart, owner: Path, known: list[str]) -> str:
    """What to write for a key of another library in the mapping at `owner`, whose keys are `known`."""
    key, note = counterpart.key, counterpart.note
    if not key:
        return f"remove it: {note}"
    if key.startswith("--"):
        return f"use the option {key} of the command line" + (f": {note}" if note else "")
    section, _, name = key.rpartition(".")
    here = ".".join(step for step in owner if isinstance(step, str))
    if name in known and (section == here or (section == "domains" and here in _TEXTS)):
        hint = f"did you mean {name}?"
    elif section == "methods":
        hint = f"did you mean {name}? {_methods_with(name)}"
    else:
        hint = f"did you mean {key}?"
    return f"{hint} {note}".rstrip()


def _methods_with(key: str) -> str:
    """Which methods have a key, as a sentence."""
    names = [name for name, kind in METHOD_CLASSES.items() if key in kind.model_fields]
    return f"{key} is a key of the method{'s' * (len(names) > 1)} {', '.join(names)}"


def _where_it_belongs(key: str, root: type[BaseModel]) -> str:
    """Where the recipe has a key of this very name, or nothing."""
    for section in ("train", "score", "rungs", "model"):
        if key in keys_at(Tree({}), (section,), root):
            return f"did you mean {section}.{key}?"
    if key in root.model_fields:
        return f"did you mean {key}, at the top of the recipe?"
    is_method_key = issubclass(root, Recipe) and any(key in kind.model_fields for kind in METHOD_CLASSES.values())
    return _methods_with(key) if is_method_key else ""


def keys_at(tree: Tree, path: Path, root: type[BaseModel]) -> list[str]:
    """The keys that the mapping at `path` may have, found by walking the schema along the data."""
    kind: Any = root
    for end, step in enumerate(path):
        if isinstance(step, int):
            continue
        field = kind.model_fields.get(step) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if field is None:
            return []
        if step == "methods":
            is_list = isinstance(tree.at(path[: end + 1]), list)
            item = tree.at(path[: end + 1 + is_list])
            kind = METHOD_CLASSES.get(item.get("method", "") if isinstance(item, dict) else "")
        else:
            kind = next(iter(section_classes(field.annotation)), None)
    return written_keys(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def section_classes(annotation: Any) -> Iterable[type[BaseModel]]:
    """The pydantic classes inside an annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from section_classes(part)


def _shortened(value: Any) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
