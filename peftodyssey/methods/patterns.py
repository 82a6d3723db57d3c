"""Regular expressions of a PEFT config, tried on a model's module names under a time limit before PEFT uses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peftodyssey.errors import MethodError
from peftodyssey.untrusted import isolated, limits

TEXT_KEYS = ("target_modules", "exclude_modules", "layers_pattern")  # a text is an expression, a list is names
MAPPING_KEYS = ("rank_pattern", "alpha_pattern")  # their keys are expressions


def check_patterns(fields: Mapping[str, Any], names: Iterable[str]) -> None:
    """MethodError where an expression of `fields` is none, or takes too long on `names`."""
    patterns = list(_patterns(fields))
    if not patterns:
        return
    try:
        isolated.worker(__name__, match_all.__name__).ask([patterns, list(names)], limits.PATTERN_SECONDS)
    except isolated.Refused as error:
        shown = ", ".join(f"{pattern!r:.60}" for pattern in patterns)
        raise MethodError(f"{shown} cannot be used as a regular expression: {error}", "name the modules") from error


def match_all(request: tuple[list[str], list[str]]) -> int:
    """How often the patterns match the names, as PEFT asks; runs in a process with limits."""
    patterns, names = request
    whole, ends = ([re.compile(form.format(one)) for one in patterns] for form in ("({})", r"(.*\.)?({})$"))
    return sum(bool(one.fullmatch(name)) for name in names for one in (*whole, *ends))


def _patterns(fields: Mapping[str, Any]) -> Iterator[str]:
    for key in TEXT_KEYS:
        value = fields.get(key)
        if isinstance(value, str) and value != "all-linear":
            yield value
    for key in MAPPING_KEYS:
        value = fields.get(key)
        if isinstance(value, Mapping):
            yield from (str(pattern) for pattern in value if re.escape(str(pattern)) != str(pattern))
