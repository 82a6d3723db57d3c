"""Which fields of a row are its text, and the text of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftodyssey.corpora.chat import Chat, Rendered, render_messages
from peftodyssey.corpora.splits import did_you_mean
from peftodyssey.errors import CorpusError


@dataclass(frozen=True)
class RowSchema:
    """How a row becomes a document: one text `field`, or `turns`.

    `turns` is "prompt" (strings prompt and completion), "messages", or "dialogue" (prompt and completion as messages).
    """

    fields: tuple[str, ...]  # all fields of the first row
    field: str | None = None
    turns: str | None = None

    @property
    def is_chat(self) -> bool:
        """Whether rows are conversations, which a chat template renders with its own special tokens."""
        return self.turns in ("messages", "dialogue")

    @property
    def columns(self) -> list[str]:
        """The fields to read, a document's id and cluster included where there are such."""
        text_fields = {None: (self.field,), "messages": ("messages",)}.get(self.turns, ("prompt", "completion"))
        return [name for name in (*text_fields, "id", "cluster") if name in self.fields]


def infer_schema(row: Mapping[str, Any], field: str | None, where: str) -> RowSchema:
    """The schema of rows like `row`; `field` is the recipe's. Raises CorpusError that names the fields there are."""
    fields = tuple(row)
    if field is None:
        if "messages" in fields:
            return RowSchema(fields, turns="messages")
        if "prompt" in fields and "completion" in fields:
            return RowSchema(fields, turns="dialogue" if isinstance(row["prompt"], list) else "prompt")
    strings = [name for name, value in row.items() if isinstance(value, str)]
    wanted = field or ("text" if "text" in fields or len(strings) != 1 else strings[0])
    if wanted in fields:
        return RowSchema(fields, field=wanted)
    raise CorpusError(
        f"{where}: no field {wanted!r}: the fields are {_listed(fields)}",
        f"{did_you_mean(wanted, fields if field else strings or fields)}set `field:` to the one that holds the text",
    )


def document_text(place: str, row: Mapping[str, Any], schema: RowSchema, chat: Chat | None) -> tuple[Rendered, int]:
    """(text with its spans, characters of the prompt) of one row; a field that is null is an empty text.

    `place` is the file and line for errors. Raises CorpusError where the row does not hold what `schema` says.
    """
    if schema.turns == "messages":
        rendered = render_messages(_value(place, row, "messages"), chat, place)
        return rendered, rendered.answers[0][0]
    if schema.turns == "dialogue":
        prompt, completion = _value(place, row, "prompt"), _value(place, row, "completion")
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise CorpusError(
                f"{place}: prompt and completion must both be strings or both be lists of messages", "correct the row"
            )
        rendered = render_messages([*prompt, *completion], chat, place)
        answers = rendered.answers[-sum(message.get("role") == "assistant" for message in completion) :]
        return rendered._replace(answers=answers), answers[0][0]
    if schema.turns == "prompt":
        prompt, completion = _string(place, row, "prompt"), _string(place, row, "completion")
        if not completion.strip():
            raise CorpusError(f"{place}: the completion is empty", "fill it or remove the row: it has nothing to learn")
        return Rendered(prompt + completion, ()), len(prompt)
    assert schema.field is not None, "infer_schema names a field or turns"
    return Rendered(_string(place, row, schema.field), ()), 0


def _value(place: str, row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise CorpusError(
            f"{place}: no field {name!r}: the fields are {_listed(tuple(row))}", "correct the row or remove it"
        )
    return row[name]


def _string(place: str, row: Mapping[str, Any], name: str) -> str:
    value = _value(place, row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"{place}: {name} is {type(value).__name__}, not text", "name the text with `field:`")
    return value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
