"""Conversations as text under a chat template, and which characters the assistant wrote. Called by corpora.rows.

A template marks the assistant's words with `{% generation %}`, as transformers and TRL read it; where it does not, an
answer is what a turn adds to the text behind the opened answer. Templates run in the sandbox that transformers uses.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peftodyssey.errors import CorpusError

Spans = tuple[tuple[int, int], ...]  # [start, end) in characters, ascending
# The template that `train.chat_template: plain` names: roles and words, every answer ended by the end token.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n\n' if not loop.last }}{% endfor %}"
)
# Private-use characters that stand around generated words while a template runs; no text of ours has both in a row.
GENERATION = r"\{%[-+]?\s*generation\b"
OPEN, CLOSE = "\ue0fa\ue0fb", "\ue0fb\ue0fa"


@dataclass(frozen=True)
class Chat:
    """How conversations become text: a Jinja template and the special tokens that it may write, such as eos_token."""

    template: str
    special: Mapping[str, str] = field(default_factory=dict)


def render_messages(messages: Any, chat: Chat | None, where: str) -> tuple[str, Spans]:
    """(text, spans of the assistant's words) of a conversation that ends with an answer; every answer is a span.

    Raises CorpusError naming `where` for what is no conversation, where there is no template, where it refuses or marks
    nothing, or where it renders the turns before an answer otherwise once the answer follows and marks no answers.
    """
    _check(messages, where)
    if chat is None:
        raise CorpusError(
            f"{where}: the model has no chat template, so a conversation has no form",
            "put chat_template.jinja beside its tokenizer, or name one: train.chat_template: plain, or the path of a Jinja file",
        )
    marked = _render(messages, chat, False, where)
    if re.search(GENERATION, chat.template):
        text, spans = _unmarked(marked)
    else:
        text, spans = marked, tuple(_added(messages, place, chat, marked, where) for place in _answers(messages))
    if not any(end > start for start, end in spans):
        raise CorpusError(
            f"{where}: the chat template marks no word of this conversation as the assistant's",
            "put {% generation %} ... {% endgeneration %} around the answers in the template",
        )
    return text, spans


def _check(messages: Any, where: str) -> None:
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise CorpusError(f"{where}: messages must be a list of objects with role and content", "mend the line")
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        last = messages[-1]["role"] if messages else "nothing"
        raise CorpusError(
            f"{where}: messages end with {last!r}, not with an answer of 'assistant'",
            "end every conversation with the answer to be learnt, or remove it",
        )


def _answers(messages: list[dict[str, Any]]) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def _added(messages: list[dict[str, Any]], place: int, chat: Chat, text: str, where: str) -> tuple[int, int]:
    """The characters that the answer at `place` adds behind the opened answer; the whole text begins with both."""
    before = _render(messages[:place], chat, True, where)
    upto = _render(messages[: place + 1], chat, False, where)
    if not (text.startswith(before) and text.startswith(upto)):
        raise CorpusError(
            f"{where}: the chat template renders the prompt otherwise once the answer follows",
            "put {% generation %} ... {% endgeneration %} around the answers in a copy of the template and name it with "
            "train.chat_template, or render prompt and completion yourself, into fields of these names",
        )
    return len(before), len(upto)


def _unmarked(marked: str) -> tuple[str, Spans]:
    """The text without its marks, and the spans that they stood around."""
    text, spans = "", []
    for number, piece in enumerate(marked.split(OPEN)):
        said, _, rest = piece.partition(CLOSE) if number else ("", "", piece)
        if number:
            spans.append((len(text), len(text) + len(said)))
        text += said + rest
    return text, tuple(spans)


def _render(messages: list[dict[str, Any]], chat: Chat, open_answer: bool, where: str) -> str:
    from jinja2 import TemplateError

    empty = {"bos_token": "", "eos_token": ""}
    try:
        return _compiled(chat.template).render(
            **{**empty, **chat.special}, messages=messages, add_generation_prompt=open_answer
        )
    except TemplateError as error:
        raise CorpusError(f"{where}: the chat template refuses this conversation: {error}", "mend its roles") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around the assistant's words: leaves marks where it begins and ends."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    made.globals["raise_exception"] = refuse
    return made.from_string(template)
