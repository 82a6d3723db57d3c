"""Conversations as text under a chat template, and which characters the assistant wrote.

A template marks the assistant's words with `{% generation %}`, as in transformers and TRL. In a template without it, an
answer is what its message adds to the text after the generation prompt. Templates run in transformers' sandbox.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftodyssey.errors import CorpusError

Spans = tuple[tuple[int, int], ...]  # [start, end) in characters, ascending
# `train.chat_template: plain`: roles and contents, every answer followed by the eos token.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n\n' if not loop.last }}{% endfor %}"
)
GENERATION = r"\{%[-+]?\s*generation\b"
# Marks around generated words while a template runs: pairs of private-use characters, which texts do not contain.
OPEN, CLOSE = "\ue0fa\ue0fb", "\ue0fb\ue0fa"


@dataclass(frozen=True)
class Chat:
    """How conversations become text: a Jinja template and the special tokens that it may write, such as eos_token."""

    template: str
    special: Mapping[str, str] = field(default_factory=dict)


def render_messages(messages: Any, chat: Chat | None, where: str) -> tuple[str, Spans]:
    """(text, spans of the assistant's words) of a conversation that ends with an answer; every answer is a span.

    Raises CorpusError naming `where` for an invalid conversation, without a template, where the template refuses the
    conversation or marks nothing, or where it marks no answers and renders a prompt differently with its answer.
    """
    _check(messages, where)
    if chat is None:
        raise CorpusError(
            f"{where}: the model has no chat template, so a conversation cannot be rendered",
            "add chat_template.jinja to its tokenizer, or set train.chat_template: plain (or the path of a Jinja file)",
        )
    text = _render(messages, chat, False, where)
    if re.search(GENERATION, chat.template):
        text, spans = _remove_marks(text)
    else:
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        spans = tuple(_added(messages, index, chat, text, where) for index in answers)
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
        raise CorpusError(f"{where}: messages must be a list of objects with role and content", "correct the line")
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        last = messages[-1]["role"] if messages else "nothing"
        raise CorpusError(
            f"{where}: messages end with {last!r}, not with an answer of 'assistant'",
            "end every conversation with the answer to learn, or remove it",
        )


def _added(messages: list[dict[str, Any]], index: int, chat: Chat, text: str, where: str) -> tuple[int, int]:
    """The characters that message `index` adds after the generation prompt; `text` must begin with both renderings."""
    prompt = _render(messages[:index], chat, True, where)
    with_answer = _render(messages[: index + 1], chat, False, where)
    if not (text.startswith(prompt) and text.startswith(with_answer)):
        raise CorpusError(
            f"{where}: the chat template renders the prompt differently once the answer follows",
            "put {% generation %} ... {% endgeneration %} around the answers in a copy of the template and name it "
            "with train.chat_template, or render prompt and completion yourself, into fields with these names",
        )
    return len(prompt), len(with_answer)


def _remove_marks(marked: str) -> tuple[str, Spans]:
    """The text without its marks, and the spans that were marked."""
    text, *pieces = marked.split(OPEN)
    spans = []
    for piece in pieces:
        answer, _, rest = piece.partition(CLOSE)
        spans.append((len(text), len(text) + len(answer)))
        text += answer + rest
    return text, tuple(spans)


def _render(messages: list[dict[str, Any]], chat: Chat, add_generation_prompt: bool, where: str) -> str:
    from jinja2 import TemplateError

    special = {"bos_token": "", "eos_token": "", **chat.special}
    try:
        template = _compiled(chat.template)
        return template.render(**special, messages=messages, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise CorpusError(
            f"{where}: the chat template refuses this conversation: {error}", "correct its roles"
        ) from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around the assistant's words: writes marks where it begins and ends."""

        tags = {"generation"}  # noqa: RUF012 # jinja2 declares it as a variable of instances

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)
