"""Conversations as text under a chat template, and which characters the assistant wrote.

A template marks the assistant's words with `{% generation %}`, as in transformers and TRL. In a template without it, an
answer is what its message adds to the text after the generation prompt. Templates run in transformers' sandbox.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from peftodyssey.corpora.messages import CORRECT, calls_as_text
from peftodyssey.errors import CorpusError, RowError
from peftodyssey.untrusted import isolated, limits

Spans = tuple[tuple[int, int], ...]  # [start, end) in characters, ascending
# `train.chat_template: plain`: roles and contents, every answer followed by the eos token.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n\n' if not loop.last }}{% endfor %}"
)
GENERATION = r"\{%[-+]?\s*generation\b"
# Marks while a template runs, around generated words and around control tokens that a message spells: pairs of
# private-use characters, which texts do not contain.
OPEN, CLOSE = "\ue0fa\ue0fb", "\ue0fb\ue0fa"
SPELT, SPELT_END = "\ue0fc\ue0fd", "\ue0fd\ue0fc"
PROBE = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


@dataclass(frozen=True)
class Chat:
    """How conversations become text: a Jinja template and the special tokens that it may write, such as eos_token."""

    template: str
    special: Mapping[str, str] = field(default_factory=dict)
    start_added: bool = False  # by `with_one_start`
    control: re.Pattern[str] | None = None  # what spells a control token, and is text in a message; None: parsed
    tools: Any = None  # of one row: the tools that its conversation may call


class Rendered(NamedTuple):
    """A conversation as text; spans in it are [start, end) in characters, ascending."""

    text: str
    answers: Spans  # what the assistant wrote
    spelt: Spans = ()  # control tokens that messages spell, which are text


def with_one_start(chat: Chat) -> Chat:
    """`chat` with a template that writes bos once: before everything where its own writes none at the beginning.

    For a tokenizer that puts bos before every text, so that the model has seen no text without it.
    """
    bos = chat.special.get("bos_token")
    try:
        text = _render(PROBE, chat, False, "the probe").text
    except CorpusError:  # a template that needs other roles: the conversations themselves are rendered, or refused
        return chat
    if not bos or text.lstrip().startswith(bos):
        return chat
    return replace(chat, template="{{ bos_token }}" + chat.template, start_added=True)


def render_messages(messages: Any, chat: Chat | None, where: str, tools: Any = None) -> Rendered:
    """A conversation that ends with an answer, as text; every answer is a span.

    `tools` are what the template is told of them. One that knows no tool calls gets them as JSON in the contents.
    Raises CorpusError naming `where` for an invalid conversation, without a template, where the template refuses the
    conversation or marks nothing, or where it marks no answers and renders a prompt differently with its answer.
    """
    _check(messages, where)
    if chat is None:
        raise CorpusError(
            f"{where}: the model has no chat template, so a conversation cannot be rendered",
            "add chat_template.jinja to its tokenizer, or set train.chat_template: plain (or the path of a Jinja file)",
        )
    if "tool_calls" not in chat.template:
        messages = calls_as_text(messages)
    chat = replace(chat, tools=_tools(tools))
    rendered = _render(messages, chat, False, where)
    if not re.search(GENERATION, chat.template):
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        rendered = rendered._replace(
            answers=tuple(_added(messages, index, chat, rendered.text, where) for index in answers)
        )
    if not any(end > start for start, end in rendered.answers):
        raise RowError(
            where,
            "the chat template marks no word of this conversation as the assistant's",
            "put {% generation %} ... {% endgeneration %} around the answers in the template",
        )
    return rendered


def _check(messages: Any, where: str) -> None:
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise RowError(where, "messages must be a list of objects with role and content", CORRECT)
    last = messages[-1] if messages else {"role": "nothing"}
    if last["role"] != "assistant":
        reason = f"messages end with {last['role']!r}, not with an answer of 'assistant'"
        raise RowError(where, reason, f"end every conversation with the answer to learn; {CORRECT}")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise RowError(where, "the answer is empty", CORRECT)


def _tools(tools: Any) -> Any:
    """What a row says of tools, for a template; None where it says nothing that could be read."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return None
    return tools or None


def _added(messages: list[dict[str, Any]], index: int, chat: Chat, text: str, where: str) -> tuple[int, int]:
    """The characters that message `index` adds after the generation prompt; `text` must begin with both renderings."""
    prompt = _render(messages[:index], chat, True, where).text
    with_answer = _render(messages[: index + 1], chat, False, where).text
    if not (text.startswith(prompt) and text.startswith(with_answer)):
        raise RowError(
            where,
            "the chat template renders the prompt differently once the answer follows",
            "put {% generation %} ... {% endgeneration %} around the answers in a copy of the template and name it "
            "with train.chat_template, or render prompt and completion yourself, into fields with these names",
        )
    return len(prompt), len(with_answer)


def _without_marks(marked: str) -> Rendered:
    """The text without its marks, and the spans that were marked."""
    begins: dict[str, int] = {}
    spans: dict[str, list[tuple[int, int]]] = {OPEN: [], SPELT: []}
    text = ""
    for piece in re.split(f"({OPEN}|{CLOSE}|{SPELT}|{SPELT_END})", marked):
        if piece in spans:
            begins[piece] = len(text)
        elif piece in (CLOSE, SPELT_END):
            opened = OPEN if piece == CLOSE else SPELT
            if opened in begins:  # else the template cut the other mark off
                spans[opened].append((begins.pop(opened), len(text)))
        else:
            text += piece
    return Rendered(text, tuple(spans[OPEN]), tuple(spans[SPELT]))


def _render(messages: list[dict[str, Any]], chat: Chat, add_generation_prompt: bool, where: str) -> Rendered:
    special = {"bos_token": "", "eos_token": "", **chat.special}
    if chat.control is not None:
        mark = f"{SPELT}\\g<0>{SPELT_END}"
        messages = [_with_marks(message, chat.control, mark) for message in messages]
    variables = {
        **special,
        "messages": messages,
        "tools": chat.tools,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        text = isolated.worker(__name__, render.__name__).ask([chat.template, variables], limits.TEMPLATE_SECONDS)
    except isolated.Refused as error:
        raise RowError(
            where, f"the chat template refuses this conversation: {error}", "correct its roles, or the template"
        ) from error
    return _without_marks(text)


def _with_marks(value: Any, control: re.Pattern[str], mark: str) -> Any:
    """A message with marks around control tokens in its texts, wherever they stand; roles and keys stay."""
    if isinstance(value, str):
        return control.sub(mark, value)
    if isinstance(value, list):
        return [_with_marks(item, control, mark) for item in value]
    if isinstance(value, dict):
        return {key: item if key == "role" else _with_marks(item, control, mark) for key, item in value.items()}
    return value


def render(request: tuple[str, dict[str, Any]]) -> str:
    """The text of a template with its variables; runs in a process with limits, raises what the template raises."""
    from jinja2 import TemplateError

    template, variables = request
    try:
        text: str = _compiled(template).render(**variables)
    except TemplateError as error:
        if type(error) is TemplateError:  # of raise_exception: the template's own words
            raise isolated.Refused(str(error)) from error
        raise
    return text


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
