"""Which columns of a row are its text, and the text of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftodyssey.corpora.chat import Chat, Rendered, render_messages
from peftodyssey.corpora.messages import CORRECT, as_messages, is_transcript, transcript_answers
from peftodyssey.corpora.row_formats import (
    as_template,
    columns_of,
    conversation_column,
    filled,
    known_answers,
    looks_like_messages,
)
from peftodyssey.corpora.splits import did_you_mean
from peftodyssey.errors import CorpusError, RowError

NO_COLUMNS: Mapping[str, str] = {}


@dataclass(frozen=True)
class RowSchema:
    """How a row becomes a document: one text `field`, or `turns`.

    `turns` is "prompt" (strings prompt and completion), "messages", "dialogue" (prompt and completion as messages), or
    "transcript" (a text of turns of Human: and Assistant:, as in Anthropic's HH).
    """

    fields: tuple[str, ...]  # all fields of the first row
    field: str | None = None  # the column of the text, or a template over columns
    turns: str | None = None
    prompt: str = "{prompt}"  # templates over columns
    completion: str = "{completion}"
    messages: str = "messages"  # the column of a conversation or transcript
    name: str = "text"  # of the form, in words

    @property
    def is_chat(self) -> bool:
        """Whether rows are conversations, which a chat template renders with its own special tokens."""
        return self.turns in ("messages", "dialogue")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of the text, in their order."""
        if self.turns in ("messages", "transcript"):
            return (self.messages,)
        if self.turns is not None:
            return tuple(dict.fromkeys((*columns_of(self.prompt), *columns_of(self.completion))))
        return () if self.field is None else columns_of(as_template(self.field))

    @property
    def columns(self) -> list[str]:
        """The fields to read, a document's id, cluster and tools included where there are such."""
        more = ("tools", "id", "cluster") if self.is_chat else ("id", "cluster")
        return [name for name in dict.fromkeys((*self.text_columns, *more)) if name in self.fields]

    @property
    def options(self) -> dict[str, Any]:
        """What of it a fingerprint holds beside field and turns: what is not as for prompt, completion and messages."""
        plain = RowSchema(())
        own = {name: getattr(self, name) for name in ("prompt", "completion", "messages")}
        return {name: value for name, value in own.items() if value != getattr(plain, name)}

    def described(self) -> str:
        """In words: `Alpaca: instruction + input -> output`."""
        if self.turns in ("prompt", "dialogue"):
            return f"{self.name}: {' + '.join(columns_of(self.prompt))} -> {' + '.join(columns_of(self.completion))}"
        return f"{self.name}: {' + '.join(self.text_columns)}"


def infer_schema(
    row: Mapping[str, Any], field: str | None, where: str, columns: Mapping[str, str] = NO_COLUMNS
) -> RowSchema:
    """The schema of rows like `row`; `field` and `columns` are the recipe's.

    Raises CorpusError that names the fields there are.
    """
    fields = tuple(row)
    if columns:
        return _named(row, columns, where)
    if field is None and (found := _with_answers(row, fields)):
        return found
    strings = [name for name, value in row.items() if isinstance(value, str | bytes)]
    wanted = field or ("text" if "text" in fields or len(strings) != 1 else strings[0])
    if field is None and wanted not in fields and (other := _any_case("text", fields)):
        wanted = other
    missing = [name for name in columns_of(as_template(wanted)) if name not in fields]
    if not missing:
        name = "text, lists joined by line breaks" if isinstance(row.get(wanted), list) else "text"
        return RowSchema(fields, field=wanted, name=name)
    raise CorpusError(
        f"{where}: no field {missing[0]!r}: the fields are {_listed(fields)}",
        f"{did_you_mean(missing[0], fields if field else strings or fields)}set `field:` to the one that holds the "
        "text, or name prompt and answer: `columns: {prompt: COLUMN, completion: COLUMN}`",
    )


def _with_answers(row: Mapping[str, Any], fields: tuple[str, ...]) -> RowSchema | None:
    """The schema of rows with answers in a form that is known by its columns."""
    if column := conversation_column(row):
        value = row[column]
        is_sharegpt = isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "from" in value[0]
        return RowSchema(fields, turns="messages", messages=column, name="ShareGPT" if is_sharegpt else "conversations")
    if "prompt" in fields and "completion" in fields:
        turns = "dialogue" if isinstance(row["prompt"], list) else "prompt"
        return RowSchema(fields, turns=turns, name="prompt and completion")
    if (column := _any_case("chosen", fields)) and (chosen := _of_preferences(row, column, fields)):
        return chosen
    if form := known_answers(row):
        return RowSchema(fields, turns="prompt", prompt=form.prompt, completion=form.completion, name=form.name)
    return None


def _of_preferences(row: Mapping[str, Any], column: str, fields: tuple[str, ...]) -> RowSchema | None:
    """The preferred of two answers: a conversation, a transcript, or the answer to the column `prompt`."""
    value, prompt = row[column], row.get("prompt")
    if looks_like_messages(value):
        if isinstance(prompt, list) and not any(message in value for message in prompt):
            return RowSchema(fields, turns="dialogue", completion=f"{{{column}}}", name="preferences, chosen")
        return RowSchema(fields, turns="messages", messages=column, name="preferences, chosen")
    if is_transcript(value):
        return RowSchema(fields, turns="transcript", messages=column, name="transcripts of Human and Assistant")
    if isinstance(prompt, str) and isinstance(value, str):
        glued = value[:1].isspace() or prompt[-1:].isspace() or prompt.endswith("Assistant:")
        template = "{prompt}" if glued else "{prompt}\n\n"
        return RowSchema(
            fields, turns="prompt", prompt=template, completion=f"{{{column}}}", name="preferences, chosen"
        )
    return None


def _named(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> RowSchema:
    """The schema that `columns` of a recipe asks for."""
    fields = tuple(row)
    templates = {key: as_template(value) for key, value in columns.items() if key != "messages"}
    named = [name for template in templates.values() for name in columns_of(template)]
    named += [columns["messages"]] if "messages" in columns else []
    for name in named:
        if name not in fields:
            raise CorpusError(
                f"{where}: no field {name!r}: the fields are {_listed(fields)}",
                f"{did_you_mean(name, fields)}correct `columns:`",
            )
    if "messages" in columns:
        turns = "transcript" if is_transcript(row[columns["messages"]]) else "messages"
        return RowSchema(fields, turns=turns, messages=columns["messages"], name="conversations")
    prompt, completion = templates["prompt"], templates["completion"]
    is_dialogue = isinstance(row.get(columns["prompt"]), list)
    return RowSchema(
        fields,
        turns="dialogue" if is_dialogue else "prompt",
        prompt=prompt,
        completion=completion,
        name="prompt and completion",
    )


def document_text(place: str, row: Mapping[str, Any], schema: RowSchema, chat: Chat | None) -> tuple[Rendered, int]:
    """(text with its spans, characters of the prompt) of one row; a field that is null is an empty text.

    `place` is the file and line for errors. Raises RowError where the row does not hold what `schema` says.
    """
    if schema.turns == "messages":
        messages = as_messages(_value(place, row, schema.messages), place)
        rendered = render_messages(messages, chat, place, row.get("tools"))
        return rendered, rendered.answers[0][0]
    if schema.turns == "transcript":
        return _transcript(place, _string(place, row, schema.messages))
    if schema.turns == "dialogue":
        return _dialogue(place, row, schema, chat)
    if schema.turns == "prompt":
        return _prompt(place, row, schema)
    assert schema.field is not None, "infer_schema names a field or turns"
    if schema.field in row:
        return Rendered(_string(place, row, schema.field), ()), 0
    return Rendered(_filled(place, row, as_template(schema.field)), ()), 0


def _transcript(place: str, text: str) -> tuple[Rendered, int]:
    text = text.lstrip("\n")
    answers = transcript_answers(text)
    if not answers or not text[slice(*answers[-1])].strip() or answers[-1][1] != len(text):
        raise RowError(place, "the answer is empty", CORRECT)
    return Rendered(text, answers), answers[0][0]


def _dialogue(place: str, row: Mapping[str, Any], schema: RowSchema, chat: Chat | None) -> tuple[Rendered, int]:
    prompt, completion = (
        _value(place, row, columns_of(template)[0]) for template in (schema.prompt, schema.completion)
    )
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise RowError(place, "prompt and completion must both be strings or both be lists of messages", CORRECT)
    learnt = as_messages(completion, place)
    rendered = render_messages([*as_messages(prompt, place), *learnt], chat, place, row.get("tools"))
    answers = rendered.answers[-sum(message["role"] == "assistant" for message in learnt) :]
    return rendered._replace(answers=answers), answers[0][0]


def _prompt(place: str, row: Mapping[str, Any], schema: RowSchema) -> tuple[Rendered, int]:
    prompt, completion = (_filled(place, row, template) for template in (schema.prompt, schema.completion))
    if not completion.strip():
        raise RowError(place, "the completion is empty", CORRECT)
    return Rendered(prompt + completion, ()), len(prompt)


def _filled(place: str, row: Mapping[str, Any], template: str) -> str:
    return filled(template, {name: _string(place, row, name) for name in columns_of(template)})


def _value(place: str, row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise RowError(place, f"no field {name!r}: the fields are {_listed(tuple(row))}", CORRECT)
    return row[name]


def _string(place: str, row: Mapping[str, Any], name: str) -> str:
    """A text, bytes that are one, or a list of texts, which line breaks join; null is empty."""
    value = _value(place, row, name)
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise RowError(place, f"{name} holds bytes that are not UTF-8", CORRECT) from None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise RowError(place, f"{name} is {type(value).__name__}, not text", CORRECT)
    return value


def _any_case(name: str, fields: Sequence[str]) -> str | None:
    return next((field for field in fields if isinstance(field, str) and field.lower() == name), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
