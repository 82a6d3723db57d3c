"""Programs of files end: templates and regular expressions run in a process with limits of time, memory and output."""

from __future__ import annotations

import pytest

from peftodyssey.corpora.chat import Chat, render_messages
from peftodyssey.errors import CorpusError, MethodError
from peftodyssey.methods.patterns import check_patterns
from peftodyssey.untrusted import isolated, limits

MESSAGES = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
NAMES = [f"model.layers.{n}.self_attn.q_proj" for n in range(32)]
LOOPS = "".join(f"{{% for {name} in range(9999) %}}" for name in "abc") + "{% endfor %}" * 3
TWICE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
TEMPLATES = {
    "loops": (LOOPS, "more than"),
    "macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "more than",
    ),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
    "a text times a number": ("{{ 'x' * 10 ** 10 }}", "memory|more than"),
    "a wide format": ("{{ '%2000000000d' % 1 }}", "memory|more than"),
    "a long answer": ("{{ 'x' * 100000000 }}", "more than"),
    "a range": ("{% for i in range(10 ** 12) %}{% endfor %}", "OverflowError"),
    "a division": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "an include": ("{% include 'other' %}", "TypeError"),
    "not Jinja": ("{% if %}", "TemplateSyntaxError"),
    "the interpreter": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError|unsafe|marks no word"),
}


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TEMPLATE_SECONDS", 0.5)
    monkeypatch.setattr(limits, "PATTERN_SECONDS", 0.5)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_takes_too_much_is_refused(name: str) -> None:
    template, why = TEMPLATES[name]
    with pytest.raises(CorpusError, match=why):
        render_messages(MESSAGES, Chat(template), "chat.jsonl:1")


def test_the_next_conversation_is_rendered() -> None:
    with pytest.raises(CorpusError):
        render_messages(MESSAGES, Chat("{{ 'x' * 100000000 }}"), "chat.jsonl:1")  # ends the process
    chat = Chat("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    assert render_messages(MESSAGES, chat, "chat.jsonl:2").text == "xy"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"(([a-z]+)*[._0-9]?)*!"},
        {"target_modules": "([a"},
        {"exclude_modules": r"(.*)*(.*)*(.*)*!"},
        {"rank_pattern": {r"(([a-z._0-9]+)+)+!": 4}},
    ],
)
def test_an_expression_without_end_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MethodError, match="regular expression"):
        check_patterns(fields, NAMES)


def test_expressions_that_end_are_taken() -> None:
    check_patterns({"target_modules": r".*\.(q|v)_proj", "rank_pattern": {r"layers\.[0-9]\..*": 4, "q_proj": 2}}, NAMES)


def test_a_worker_that_was_killed_starts_again() -> None:
    worker = isolated.Worker("peftodyssey.methods.patterns", "match_all")
    assert worker.ask([["a"], ["a", "b.a"]], 1.0) == 3  # PEFT's two ways of asking
    assert worker.process is not None
    worker.process.kill()
    worker.process.wait()
    assert worker.ask([["a"], ["b"]], 1.0) == 0
    worker.end()
