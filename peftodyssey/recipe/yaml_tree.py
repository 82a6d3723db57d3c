"""YAML text to plain values with the place of each key and value.
Called by `recipe.load` and `recipe.overrides`.

Scalars are read by YAML 1.2's rules, not 1.1's: `1e-4` is a number, `no` and `on` are words, `010` is text (and refused
where a number is needed). Tags are refused, so nothing is ever constructed but text, numbers, lists and mappings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml  # type: ignore[import-untyped]

from peftodyssey.errors import Problem

Path = tuple[Any, ...]
MAX_NODES = 50_000  # an alias of an alias of an alias can stand for more values than memory holds

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MAPPING_TAG, _SEQUENCE_TAG, _MERGE_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "merge"))


@dataclass(frozen=True)
class SourceLocation:
    """Where a key or value stands; lines and columns count from 1, 0 where there is none (an override)."""

    where: str
    line: int
    column: int


@dataclass
class Tree:
    """A document as plain values (`data`), the places of its keys and values, and what was wrong while reading."""

    data: Any = None
    keys: dict[Path, SourceLocation] = field(default_factory=dict)
    values: dict[Path, SourceLocation] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0

    def place(self, path: Path, prefer_key: bool = False) -> SourceLocation:
        """The place of `path`, or of its nearest ancestor that stands in the text."""
        first, second = (self.keys, self.values) if prefer_key else (self.values, self.keys)
        for end in range(len(path), -1, -1):
            found = first.get(path[:end]) or second.get(path[:end])
            if found:
                return found
        return SourceLocation("recipe", 0, 0)


def scalar(text: str) -> Any:
    """The value of an unquoted scalar by YAML 1.2's core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text.replace("_", ""))
    return float(text.replace("_", "")) if _FLOAT.match(text) else text


def read_tree(text: str, where: str) -> Tree:
    """`text` as a `Tree`; syntax errors, duplicate keys and tags are in its `problems`."""
    tree = Tree()
    tree.values[()] = SourceLocation(where, 1, 1)
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            tree.values.clear()
            tree.data = _value(loader, node, (), where, tree, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        tree.problems.append(
            Problem(
                where,
                line,
                error.position - (text.rfind("\n", 0, error.position)),
                "",
                "a character that YAML does not allow",
                got=f"#x{ord(error.character) if isinstance(error.character, str) else error.character:04x}",
                next_step="remove the character",
            )
        )
    except yaml.MarkedYAMLError as error:
        tree.problems.append(_syntax_problem(error, where))
    except RecursionError:
        tree.data = None
        tree.problems = [
            Problem(
                where,
                1,
                1,
                "",
                "lists or mappings inside each other without end",
                next_step="a recipe is five deep at most",
            )
        ]
    finally:
        if loader is not None:
            loader.dispose()
    return tree


def _syntax_problem(error: yaml.MarkedYAMLError, where: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = ", ".join(part for part in (error.context, error.problem) if part)
    next_step = "mend the YAML; inside a list or mapping every line needs the same indentation"
    if r"'\t'" in what:
        next_step = "YAML is indented with spaces, not tabs"
    elif "another document" in what:
        next_step = "a recipe is one document: remove the line '---' and what follows, or make two files"
    elif "mapping values are not allowed" in what:
        next_step = "put quotes round a value that contains ': ', or mend the indentation"
    return Problem(
        where,
        mark.line + 1 if mark else 0,
        mark.column + 1 if mark else 0,
        "",
        f"not valid YAML: {what}",
        next_step=next_step,
    )


def _place(node: yaml.Node, where: str) -> SourceLocation:
    return SourceLocation(where, node.start_mark.line + 1, node.start_mark.column + 1)


def _problem(tree: Tree, node: yaml.Node, where: str, path: Path, what: str, next_step: str, got: str = "") -> None:
    place = _place(node, where)
    tree.problems.append(
        Problem(where, place.line, place.column, format_path(path), what, got=got, next_step=next_step)
    )


def _value(loader: yaml.SafeLoader, node: yaml.Node, path: Path, where: str, tree: Tree, above: tuple[int, ...]) -> Any:
    tree.values[path] = _place(node, where)
    tree.nodes += 1
    if id(node) in above or tree.nodes > MAX_NODES:
        if tree.nodes <= MAX_NODES or tree.nodes == MAX_NODES + 1:
            _problem(
                tree,
                node,
                where,
                path,
                "an alias that repeats without end",
                "write the values out instead of using anchors",
            )
        return None
    above = (*above, id(node))
    if _tagged(loader, node):
        _problem(tree, node, where, path, "YAML tags are not used in recipes", "remove the tag", got=str(node.tag))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, child, (*path, i), where, tree, above) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, where, tree, above)
    return node.value if node.style else scalar(node.value)


def _tagged(loader: yaml.SafeLoader, node: yaml.Node) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return node.tag != loader.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
    return node.tag != (_MAPPING_TAG if isinstance(node, yaml.MappingNode) else _SEQUENCE_TAG)


def _mapping(
    loader: yaml.SafeLoader,
    node: yaml.MappingNode,
    path: Path,
    where: str,
    tree: Tree,
    above: tuple[int, ...],
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE_TAG:
            for parent in _merged(value_node):
                merged = {**_value(loader, parent, path, where, tree, above), **merged}
            continue
        if not isinstance(key_node, yaml.ScalarNode) or _tagged(loader, key_node):
            _problem(tree, key_node, where, path, "a key must be a plain word", "write `key: value`")
            continue
        key, child = key_node.value, (*path, key_node.value)
        if key in result:
            first = tree.keys[child].line
            _problem(
                tree,
                key_node,
                where,
                child,
                f"written twice; the first is on line {first}",
                "keep one of the two",
            )
            continue
        tree.keys[child] = _place(key_node, where)
        result[key] = _value(loader, value_node, child, where, tree, above)
    tree.values[path] = _place(node, where)
    return {**merged, **result}


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return (n for n in nodes if isinstance(n, yaml.MappingNode))


def format_path(path: Path) -> str:
    """`("methods", 1, "rank")` as people write it: `methods[1].rank`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
