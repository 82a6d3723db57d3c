"""The forms in which people have texts with answers, known by their columns, and templates over columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COLUMN = re.compile(r"\{([^{}\n]+)\}")  # a column in a template


class AnswerFormat(NamedTuple):
    """Rows of a prompt and its answer: templates over columns, of which those in `optional` may be missing."""

    name: str
    prompt: str
    completion: str
    optional: tuple[str, ...] = ()


INSTRUCTION = "### Instruction:\n{instruction}\n\n### Input:\n{%s}\n\n### Response:\n"
QUESTION = "{context}\n\nQuestion: {question}\nAnswer:"
# In this order, the first whose columns are all there.
ANSWERS = (
    AnswerFormat("Alpaca", INSTRUCTION % "input", "{output}", ("input",)),
    AnswerFormat("Dolly", INSTRUCTION % "context", "{response}", ("context",)),
    AnswerFormat("question and answer", QUESTION, " {answer}", ("context",)),
    AnswerFormat("question and answer", QUESTION, " {response}", ("context",)),
    AnswerFormat("prompt and response", "{prompt}\n\n", "{response}"),
    AnswerFormat("prompt and answer", "{prompt}\n\n", "{answer}"),
)
# Names that are also those of other things: read as answers only where no column is called `text`.
WEAK_ANSWERS = (
    AnswerFormat("query and response", "{query}\n\n", "{response}"),
    AnswerFormat("problem and solution", "{problem}\n\n", "{solution}"),
    AnswerFormat("input and output", "{input}\n\n", "{output}"),
)
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog")


def columns_of(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once: `{title}` is one."""
    return tuple(dict.fromkeys(COLUMN.findall(template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with the values of its columns; a paragraph whose columns are all empty is left out."""
    kept = [
        COLUMN.sub(lambda match: values[match[1]], paragraph)
        for paragraph in template.split("\n\n")
        if not (names := COLUMN.findall(paragraph)) or any(values[name].strip() for name in names)
    ]
    return "\n\n".join(kept)


def as_template(written: str) -> str:
    """What a recipe writes for a column: a template as it stands, or a name, which becomes the template `{name}`."""
    return written if COLUMN.search(written) else f"{{{written}}}"


def known_answers(row: Mapping[str, Any]) -> AnswerFormat | None:
    """The form of rows like `row` with a prompt and an answer, with the names that its columns have; None if unknown.

    Names are compared without case.
    """
    own = {name.lower(): name for name in row if isinstance(name, str)}
    forms: Sequence[AnswerFormat] = ANSWERS if "text" in own else (*ANSWERS, *WEAK_ANSWERS)
    for form in forms:
        named = columns_of(form.prompt + form.completion)
        if all(_is_text(row.get(own.get(name, ""))) for name in named if name not in form.optional):
            return AnswerFormat(
                form.name, _with_names(form.prompt, own), _with_names(form.completion, own), form.optional
            )
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _with_names(template: str, own: Mapping[str, str]) -> str:
    """The template with the columns as they are spelt; paragraphs of columns that are not there are left out."""
    paragraphs = [p for p in template.split("\n\n") if all(name in own for name in COLUMN.findall(p))]
    return "\n\n".join(COLUMN.sub(lambda match: f"{{{own[match[1]]}}}", paragraph) for paragraph in paragraphs)


def conversation_column(row: Mapping[str, Any]) -> str | None:
    """The column that holds conversations: a list of messages, or one as JSON; `messages` whatever it holds."""
    if "messages" in row:
        return "messages"
    own = {name.lower(): name for name in row if isinstance(name, str)}
    return next((own[name] for name in CONVERSATIONS if name in own and looks_like_messages(row[own[name]])), None)


def looks_like_messages(value: Any) -> bool:
    """Whether a value is a list of messages, or one as JSON."""
    if isinstance(value, str):
        return bool(re.match(r'\s*\[\s*\{\s*"(role|from|content|value)"', value))
    is_list = isinstance(value, list) and bool(value)
    return is_list and isinstance(value[0], dict) and bool({"role", "from"} & value[0].keys())
