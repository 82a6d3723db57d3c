"""YAML text as plain values, with the place of each key and value.

Scalars are read by YAML 1.2's rules, not 1.1's: `1e-4` is a number, `no` and `on` are words, `010` is text (and refused
where a number is needed). Tags are refused, so nothing but text, numbers, lists and mappings is ever constructed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from peftodyssey.errors import Problem
from peftodyssey.untrusted.limits import RECIPE_NODES

Path = tuple[Any, ...]

SURROGATE = re.compile("[\ud800-\udfff]")  # JSON's \\uD800 alone is half of a character
NUMBER_DIGITS = 40  # a longer number is text, and refused where a number is needed
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_MAPPING_TAG, _SEQUENCE_TAG, _MERGE_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "merge"))


@dataclass(frozen=True)
class SourceLocation:
    """The place of a key or value; lines and columns count from 1, 0 where there is none (an override)."""

    where: str
    line: int
    column: int


@dataclass
class Tree:
    """A document as plain values (`data`), the places of its keys and values, and what was wrong while reading."""

    data: Any = None
    text: str = ""
    where: str = "recipe"  # the file's name, or a name for text without a file
    folder: str = "."  # absolute folder that relative paths start from
    keys: dict[Path, SourceLocation] = field(default_factory=dict)
    values: dict[Path, SourceLocation] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path, prefer_key: bool = False) -> SourceLocation:
        """The place of `path`, or of its nearest ancestor that is written in the text."""
        first, second = (self.keys, self.values) if prefer_key else (self.values, self.keys)
        for end in range(len(path), -1, -1):
            if location := first.get(path[:end]) or second.get(path[:end]):
                return location
        return SourceLocation("recipe", 0, 0)

    def written(self, path: Path) -> Path:
        """The part of `path` that is written in the text: without indices into a list that was written as one value."""
        written: list[Any] = []
        node = self.data
        for step in path:
            if holds(node, step):
                written.append(step)
                node = node[step]
        return tuple(written)

    def at(self, path: Path) -> Any:
        """The plain value at `path`."""
        node = self.data
        for step in path:
            node = node[step]
        return node

    def problem(
        self,
        path: Path,
        what: str,
        *,
        got: str = "",
        allowed: str = "",
        next_step: str = "",
        severity: str = "error",
        depends_on: tuple[Path, ...] = (),
    ) -> Problem:
        """A `Problem` at the place of `path`, which was found by looking at the values at `depends_on` too."""
        place, paths = self.place(self.written(path)), (path, *depends_on)
        return Problem(
            place.where, place.line, place.column, format_path(path), what, got, allowed, next_step, severity, paths
        )


def holds(node: Any, step: Any) -> bool:
    """Whether `node` is a mapping with the key `step`, or a list that long."""
    if isinstance(node, list):
        return isinstance(step, int) and step < len(node)
    return isinstance(node, dict) and step in node


def scalar(text: str) -> Any:
    """The value of an unquoted scalar by YAML 1.2's core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > NUMBER_DIGITS:
        return text
    if _INT.match(text):
        return int(text.replace("_", ""))
    return float(text.replace("_", "")) if _FLOAT.match(text) else text


def read_tree(text: str, where: str, folder: str = ".") -> Tree:
    """`text` as a `Tree`; syntax errors, duplicate keys and tags are in its `problems`."""
    tree = Tree(None, text, where, folder)
    tree.values[()] = SourceLocation(where, 1, 1)
    reader = None
    try:
        reader = _Reader(tree)
        node = reader.loader.get_single_node()
        if node is not None:
            tree.values.clear()
            tree.data = reader.value(node, (), ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        code = ord(error.character) if isinstance(error.character, str) else error.character
        what = "a character that YAML does not allow"
        tree.problems.append(
            Problem(where, line, column, "", what, got=f"#x{code:04x}", next_step="remove the character")
        )
    except yaml.MarkedYAMLError as error:
        tree.problems.append(_syntax_problem(error, where))
    except _TooManyNodes as error:
        what, next_step = f"more than {RECIPE_NODES:,} values", "a recipe has a few dozen; is this file one?"
        tree.data, tree.problems = None, [Problem(where, error.line, 1, "", what, next_step=next_step)]
    except RecursionError:
        what, next_step = "lists or mappings are nested too deeply", "a recipe is five levels deep at most"
        tree.data, tree.problems = None, [Problem(where, 1, 1, "", what, next_step=next_step)]
    finally:
        if reader is not None:
            reader.loader.dispose()
    return tree


def _syntax_problem(error: yaml.MarkedYAMLError, where: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    what = ", ".join(part for part in (error.context, error.problem) if part)
    next_step = "correct the YAML; inside a list or mapping every line needs the same indentation"
    if r"'\t'" in what:
        next_step = "YAML is indented with spaces, not tabs"
    elif "another document" in what:
        next_step = "a recipe is one document: remove the line '---' and what follows, or make two files"
    elif "mapping values are not allowed" in what:
        next_step = "put quotes round a value that contains ': ', or correct the indentation"
    return Problem(where, line, column, "", f"not valid YAML: {what}", next_step=next_step)


class _TooManyNodes(Exception):
    """There are more values than a recipe may have; `line` is where the first one too many is."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, which stops where there are more nodes than a recipe may have."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > 2 * RECIPE_NODES:  # keys are nodes too
            raise _TooManyNodes(self.line + 1)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


class _Reader:
    """Converts YAML nodes to plain values and records in `tree` the place of each and every problem."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.nodes = tree, 0
        self.loader = _Loader(tree.text)

    def value(self, node: yaml.Node, path: Path, ancestors: tuple[int, ...]) -> Any:
        """The value of `node`; `ancestors` are the ids of the nodes around it."""
        self.tree.values[path] = self.place(node)
        self.nodes += 1
        if self.nodes > RECIPE_NODES:  # an alias of an alias of an alias stands for more values than memory holds
            raise _TooManyNodes(node.start_mark.line + 1)
        if id(node) in ancestors:
            next_step = "write the values out instead of using anchors"
            self.refuse(node, path, "an alias that repeats without end", next_step)
            return None
        ancestors = (*ancestors, id(node))
        if self.tagged(node):
            self.refuse(node, path, "YAML tags are not used in recipes", "remove the tag", got=str(node.tag))
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i), ancestors) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, ancestors)
        if SURROGATE.search(node.value):
            self.refuse(node, path, "half of a character, which is no text", r"write the character itself, not \uD800")
            return None
        return node.value if node.style else scalar(node.value)

    def mapping(self, node: yaml.MappingNode, path: Path, ancestors: tuple[int, ...]) -> dict[str, Any]:
        """A mapping with its merge keys (`<<`) resolved; a key that is written twice is a problem."""
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for parent in _merged(value_node):
                    merged = {**self.value(parent, path, ancestors), **merged}
                continue
            is_word = isinstance(key_node, yaml.ScalarNode) and not SURROGATE.search(key_node.value)
            if not is_word or self.tagged(key_node):
                self.refuse(key_node, path, "a key must be a plain word", "write `key: value`")
                continue
            key, child = key_node.value, (*path, key_node.value)
            if key in result:
                first_line = self.tree.keys[child].line
                self.refuse(key_node, child, f"written twice; the first is on line {first_line}", "keep one of the two")
                continue
            self.tree.keys[child] = self.place(key_node)
            result[key] = self.value(value_node, child, ancestors)
        self.tree.values[path] = self.place(node)
        return {**merged, **result}

    def tagged(self, node: yaml.Node) -> bool:
        """Whether a node has a tag other than the one that its form implies."""
        if isinstance(node, yaml.ScalarNode):
            implied = self.loader.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
            return bool(node.tag != implied)
        return bool(node.tag != (_MAPPING_TAG if isinstance(node, yaml.MappingNode) else _SEQUENCE_TAG))

    def place(self, node: yaml.Node) -> SourceLocation:
        """Where a node starts."""
        return SourceLocation(self.tree.where, node.start_mark.line + 1, node.start_mark.column + 1)

    def refuse(self, node: yaml.Node, path: Path, what: str, next_step: str, got: str = "") -> None:
        """Note a problem at a node."""
        place = self.place(node)
        problem = Problem(place.where, place.line, place.column, format_path(path), what, got, next_step=next_step)
        self.tree.problems.append(problem)


def _merged(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return (n for n in nodes if isinstance(n, yaml.MappingNode))


def format_path(path: Path) -> str:
    """`("methods", 1, "rank")` as people write it: `methods[1].rank`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
