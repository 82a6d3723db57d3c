"""Which fields of a row are its text, and which split a named part is. Called by corpora.source, local and hub."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftodyssey.errors import CorpusError

ALIASES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "test": "test",
}


@dataclass(frozen=True)
class RowSchema:
    """How a row becomes a document: one text `field`, or `turns`.

    `turns` is "prompt" (texts prompt and completion), "messages", or "dialogue" (prompt and completion as messages).
    """

    fields: tuple[str, ...]  # all that the first row has
    field: str | None = None
    turns: str | None = None

    @property
    def is_chat(self) -> bool:
        """Whether rows are conversations, which a chat template renders with its own special tokens."""
        return self.turns in ("messages", "dialogue")

    @property
    def columns(self) -> list[str]:
        """The fields to read, a document's id included where there is one."""
        answered = ("prompt", "completion")
        used = {"prompt": answered, "dialogue": answered, "messages": ("messages",)}.get(
            self.turns or "", (self.field,)
        )
        return [c for c in [*used, "id"] if c in self.fields]


def infer_schema(row: Mapping[str, Any], field: str | None, where: str) -> RowSchema:
    """The layout of rows like `row`, `field` being what the recipe names. Raises CorpusError, naming the fields there
    are.
    """
    fields = tuple(row)
    if field is not None:
        if field not in fields:
            raise CorpusError(
                f"{where}: there is no field {field!r}: the fields are {_listed(fields)}", _name_one(field, fields)
            )
        return RowSchema(fields, field=field)
    if "messages" in fields:
        return RowSchema(fields, turns="messages")
    if "prompt" in fields and "completion" in fields:
        return RowSchema(fields, turns="dialogue" if isinstance(row["prompt"], list) else "prompt")
    if "text" in fields:
        return RowSchema(fields, field="text")
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) == 1:
        return RowSchema(fields, field=texts[0])
    raise CorpusError(f"{where}: no field `text`: the fields are {_listed(fields)}", _name_one("text", texts or fields))


def split_of(name: str) -> str | None:
    """train, valid or test where `name` is one of their usual names, alone or before - _ or a point; else None."""
    lowered = name.lower()
    for end in ("-", "_", "."):
        lowered = lowered.split(end)[0]
    return ALIASES.get(lowered)


def named_splits(split: Mapping[str, Any]) -> dict[str, str]:
    """The parts that the recipe names: {"test": "validation"}."""
    return {part: name for part, name in split.items() if isinstance(name, str)}


def refuse_shares(split: Mapping[str, Any], own: Iterable[str], where: str) -> None:
    """Raises CorpusError where the recipe gives a share to a split that the source already has."""
    both = sorted(set(own) & {part for part, value in split.items() if not isinstance(value, str)})
    if both:
        raise CorpusError(
            f"{where} has its own {both[0]} split, and the recipe gives it a share", f"leave out split.{both[0]}"
        )


def parts_of_names(names: Sequence[str], split: Mapping[str, Any], where: str) -> dict[str, str]:
    """{part: name in the source} for a source with named splits; a single unknown name is train."""
    named = named_splits(split)
    for part, name in named.items():
        if name not in names:
            raise CorpusError(
                f"{where} has no split {name!r}: it has {_listed(names)}", f"set split.{part} to one of them"
            )
    usual = {split_of(name): name for name in reversed(names) if name not in named.values()}
    parts = {part: name for part, name in usual.items() if part is not None} | named
    if not parts and len(names) == 1:
        parts = {"train": names[0]}
    if not parts:
        raise CorpusError(
            f"{where} has the splits {_listed(names)}", f"say which to train on: split: {{train: {names[0]}}}"
        )
    refuse_shares(split, parts, where)
    return parts


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean ...? ` for the nearest of `known`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _name_one(field: str, fields: Sequence[str]) -> str:
    return f"{did_you_mean(field, fields)}set `field:` to the one that holds the text"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
