"""Conversations as people have them, made lists of `role` and `content`: ShareGPT, parts, tool calls, any case."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.errors import RowError

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")  # of a transcript, as in Anthropic's HH
SHAPE = "a list of objects with role and content (or from and value)"
CORRECT = "correct the row, or leave such rows out: `bad_rows: drop`"


def as_messages(value: Any, place: str) -> list[dict[str, Any]]:
    """A conversation with roles `user`, `assistant`, `system`, `tool` (others as they are, in lower case).

    Takes a list of messages or one as JSON. Contents become text: parts of text are joined, null is empty; the
    arguments of tool calls become objects. Raises RowError for anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(place, f"messages must be {SHAPE}", CORRECT) from None
    if not isinstance(value, list):
        raise RowError(place, f"messages must be {SHAPE}", CORRECT)
    return [_message(message, place) for message in value]


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RowError(place, f"messages must be {SHAPE}", CORRECT)
    role = message.get("role", message.get("from"))
    content = message["content"] if "content" in message else message.get("value")
    calls = message.get("tool_calls") or None
    if not isinstance(role, str) or (content is None and calls is None and "content" not in message):
        raise RowError(place, f"messages must be {SHAPE}", CORRECT)
    known = {key: value for key, value in message.items() if value is not None and key not in ("from", "value")}
    role = ROLES.get(role.strip().lower(), role.strip().lower())
    changed: dict[str, Any] = {**known, "role": role, "content": _content(content, place)}
    if calls is not None:
        changed["tool_calls"] = _calls(calls, place)
    return changed


def _content(content: Any, place: str) -> str:
    """The text of a message: itself, or its parts joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        raise RowError(place, f"the content of a message is {type(content).__name__}, not text", CORRECT)
    texts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in parts]
    for part, text in zip(parts, texts, strict=True):
        if not isinstance(text, str):
            kind = part.get("type", "object") if isinstance(part, dict) else type(part).__name__
            raise RowError(place, f"a message holds a part of type {kind}, and only text is read", CORRECT)
    return "".join(str(text) for text in texts)


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError(place, "tool_calls must be a list of objects", CORRECT)
    return [_with_object(call) for call in calls]


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are an object, as templates expect it, where they were written as JSON."""
    inner = dict(call.get("function") or call)
    if isinstance(inner.get("arguments"), str):
        with contextlib.suppress(ValueError, RecursionError):  # else templates write the text as it stands
            inner["arguments"] = json.loads(inner["arguments"])
    return {**call, "function": inner} if "function" in call else inner


def calls_as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with its tool calls written into the contents as JSON, for a template that knows none."""
    plain = []
    for message in messages:
        calls = message.get("tool_calls") or ()
        written = [json.dumps(call.get("function", call), ensure_ascii=False) for call in calls]
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        plain.append({**kept, "content": "\n".join([part for part in (message["content"], *written) if part])})
    return plain


def transcript_answers(text: str) -> tuple[tuple[int, int], ...]:
    """What stands behind each `Assistant:` of a transcript, up to the next turn: [start, end) in characters."""
    turns = list(TURN.finditer(text))
    ends = [*(turn.start() for turn in turns[1:]), len(text)]
    return tuple(
        (turn.end(), end) for turn, end in zip(turns, ends, strict=True) if turn[1] == "Assistant" and end > turn.end()
    )


def is_transcript(value: Any) -> bool:
    """Whether a text is one of turns of `Human:` and `Assistant:`."""
    return isinstance(value, str) and {turn[1] for turn in TURN.finditer(value)} == {"Human", "Assistant"}
