"""Conversations as text: a chat template, or a plain form where there is none. Called by corpora.rows."""

from __future__ import annotations

import json
from typing import Any

from peftodyssey.errors import CorpusError


def render_messages(messages: list[dict[str, Any]], chat_template: str | None, where: str) -> tuple[str, int]:
    """(text, prompt characters) of a conversation whose last message, by the assistant, is the completion.

    `chat_template` is Jinja as in tokenizer_config.json, run in the sandbox that transformers uses; bos and eos are
    given to it as empty, because documents are framed later. Without one a turn is `role: content` and a blank line.
    Raises CorpusError where the last message is not the assistant's or the prompt is no beginning of the text.
    """
    _check(messages, where)
    if chat_template is None:
        prompt = "".join(f"{m['role']}: {m['content']}\n\n" for m in messages[:-1]) + f"{messages[-1]['role']}: "
        return prompt + messages[-1]["content"], len(prompt)
    prompt = _render(messages[:-1], chat_template, True, where)
    text = _render(messages, chat_template, False, where)
    if not text.startswith(prompt):
        raise CorpusError(
            f"{where}: the chat template renders the prompt otherwise once the answer follows",
            "render prompt and completion yourself, into fields of these names",
        )
    return text, len(prompt)


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


def _render(messages: list[dict[str, Any]], chat_template: str, open_answer: bool, where: str) -> str:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(chat_template)
        return template.render(messages=messages, add_generation_prompt=open_answer, bos_token="", eos_token="")
    except TemplateError as error:
        raise CorpusError(f"{where}: the chat template refuses this conversation: {error}", "mend its roles") from error
