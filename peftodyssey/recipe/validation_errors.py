"""A pydantic error as a `Problem` that a person can act on: place, words, what is allowed, nearest spelling.

Called by `recipe.load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_types import written_keys
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_methods import METHOD_CLASSES
from peftodyssey.recipe.yaml_tree import Path, Tree, format_path

MISPLACED = {
    ("full", "quant"): "full fine-tuning trains every weight, so none can be quantised: use lora or qlora",
    (
        "full",
        "double_quant",
    ): "full fine-tuning trains every weight, so none can be quantised: use lora or qlora",
    ("full", "rank"): "full fine-tuning has no rank: use lora",
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


def nearest(word: Any, known: Iterable[str]) -> str:
    """`did you mean x?` for the known word closest to `word`, or nothing."""
    known = list(known)
    close = get_close_matches(str(word).lower(), known, 1, 0.6) or get_close_matches(str(word), known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else ""


def written_path(location: Path, data: Any) -> Path:
    """The part of a pydantic location that stands in the text: tags of unions and normalised forms are left out."""
    path: list[Any] = []
    for step in location:
        if holds(data, step):
            path.append(step)
            data = data[step]
    return tuple(path)


def holds(node: Any, step: Any) -> bool:
    """Whether `node` is a mapping with the key `step`, or a list that long."""
    if isinstance(node, list):
        return isinstance(step, int) and step < len(node)
    return isinstance(node, Mapping) and step in node


def at(data: Any, path: Path) -> Any:
    """The plain value at `path`."""
    for step in path:
        data = data[step]
    return data


def keys_at(data: Any, path: Path, root: type[BaseModel] = Recipe) -> list[str]:
    """The keys that the mapping at `path` may have, by walking the schema beside the data."""
    kind: Any = root
    for end, step in enumerate(path):
        if isinstance(step, int):
            continue
        field = kind.model_fields.get(step) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if field is None:
            return []
        if step == "methods":
            name = at(data, path[: end + 2]) if len(path) > end + 1 else {}
            kind = METHOD_CLASSES.get(name.get("method") if isinstance(name, dict) else None)  # type: ignore[arg-type]
        else:
            kind = next(iter(_classes(field.annotation)), None)
    return written_keys(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _classes(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _classes(part)


def problems(error: ValidationError, tree: Tree, root: type[BaseModel] = Recipe) -> list[tuple[Path, Problem]]:
    """Every pydantic error of a `root` as the path that is at fault and its `Problem`, one for each place."""
    found: dict[Path, Problem] = {}
    for item in error.errors(include_url=False):
        path = written_path(item["loc"], tree.data)
        key = (*path, item["loc"][-1]) if item["type"] == "missing" else path
        found.setdefault(key, _problem(item, path, tree, root))
    return list(found.items())


def _problem(item: Any, path: Path, tree: Tree, root: type[BaseModel]) -> Problem:
    value = at(tree.data, path)
    if item["type"] == "extra_forbidden":
        return _unknown_key(path, tree, root)
    if item["type"] == "missing":
        return _missing(item, path, tree)
    context = item.get("ctx", {})
    what, allowed, hint = _KINDS.get(item["type"], item["msg"]), "", ""
    if value is None:
        what, hint = "it has no value", "give it one, or delete the line for the default"
        allowed = context.get("allowed", "")
    elif item["type"] == "recipe":
        what, allowed, hint = context["what"], context["allowed"], context["next_step"]
    elif item["type"] == "literal_error":
        what, allowed, hint = _not_in_list(value, context["expected"], path)
    elif item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _method(value, path, tree)
    elif item["type"] == "too_long":
        what = f"the list has {context['actual_length']} values, not {context['max_length']}"
    place = tree.place(path)
    return Problem(place.where, place.line, place.column, format_path(path), what, _shown(value), allowed, hint)


def _not_in_list(value: Any, expected: str, path: Path) -> tuple[str, str, str]:
    words = [w.strip("' ") for w in expected.replace(" or ", ", ").split(",")]
    return "not one of the allowed values", ", ".join(words), nearest(value, words)


def _method(value: Any, path: Path, tree: Tree) -> Problem:
    named = isinstance(value, dict) and "method" in value
    path = (*path, "method") if named else path
    place, name = tree.place(path), value["method"] if named else value
    named = named or isinstance(value, str)
    what = "no such method" if named else "the item does not say which method it is"
    hint = nearest(name, METHOD_CLASSES) if named else "write `- {method: lora, rank: 8}`"
    return Problem(
        place.where,
        place.line,
        place.column,
        format_path(path),
        what,
        _shown(name),
        ", ".join(METHOD_CLASSES),
        hint,
    )


def _unknown_key(path: Path, tree: Tree, root: type[BaseModel]) -> Problem:
    place, key, owner = tree.place(path, prefer_key=True), path[-1], path[:-1]
    known = keys_at(tree.data, owner, root)
    parent = at(tree.data, owner)
    what, allowed, hint = "no such key", ", ".join(known), nearest(key, known)
    misplaced = MISPLACED.get((parent.get("method"), key)) if isinstance(parent.get("method"), str) else None
    if misplaced:
        what, hint = f"the method {parent['method']} does not have this key", misplaced
    elif not hint:
        elsewhere = _where_it_belongs(str(key), root)
        hint = f"did you mean {elsewhere}?" if elsewhere else "remove it"
    return Problem(place.where, place.line, place.column, format_path(path), what, allowed=allowed, next_step=hint)


def _where_it_belongs(key: str, root: type[BaseModel]) -> str:
    for section in ("train", "score", "rungs", "model"):
        if key in keys_at({}, (section,), root):
            return f"{section}.{key}"
    return key if key in root.model_fields else ""


def _missing(item: Any, path: Path, tree: Tree) -> Problem:
    place, key = tree.place(path), item["loc"][-1]
    hints = {
        "model": "add a line such as `model: bundled/odyssey-3m`",
        "domains": "add `domains: [bundled/wiki_history_events]`, or the path of your own text",
        "methods": "add `methods: [full, {method: lora, rank: 8}]`",
        "path": "add `path: ` with the folder of the adapter",
        "peft_type": "add `peft_type: ` with a type such as VERA",
        "name": "add `name: `",
    }
    if isinstance(key, int):
        return Problem(
            place.where,
            place.line,
            place.column,
            format_path(path),
            "the list is too short",
            _shown(at(tree.data, path)),
        )
    return Problem(
        place.where,
        place.line,
        place.column,
        format_path((*path, key)),
        "missing",
        next_step=hints.get(str(key), f"add `{key}: `"),
    )


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
