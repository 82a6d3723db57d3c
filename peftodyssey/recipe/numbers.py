"""Numbers as people write them: `200k`, `3%`, `22GiB`, `1e-4`, `2r`, `8h`.

Each parser takes what YAML or a shell gave (text or number) and returns a plain number, or raises `ValueError` with a
sentence that says what is allowed. YAML 1.1 reads `1e-4` as text and `010` as eight; here the first is a number and the
second is refused, from YAML and from a shell alike.
"""

from __future__ import annotations

import math
import re
from typing import Any

COUNT = r"^\s*\+?[0-9][0-9_]*(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*([kKmMbBgGtT])?\s*$"
NUMBER = r"^\s*[+-]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
SHARE = r"^\s*[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*%?\s*$"
BYTES = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)([iI]?)([bB]?)\s*$"
DURATION = r"^\s*(?:[0-9]+(?:\.[0-9]+)?\s*(?:d|h|m|min|s)\s*)+$"
ALPHA = r"^\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)?\s*\*?\s*[rR]\s*$"

_THOUSANDS = {"": 0, "k": 1, "m": 2, "b": 3, "g": 3, "t": 4}
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}


def _refuse(value: Any, allowed: str) -> ValueError:
    if isinstance(value, bool):
        return ValueError(f"a number is needed, not true or false; write {allowed}")
    if isinstance(value, str) and re.match(r"^\s*[+-]?0\d", value):
        return ValueError(f"a leading zero means octal to some YAML readers; write {allowed} without it")
    return ValueError(f"write {allowed}")


def parse_number(value: Any, allowed: str = "a number such as 0.001 or 1e-3") -> float:
    """The finite number in `value`, text or number."""
    if (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, str) and re.match(NUMBER, value) and not re.match(r"^\s*[+-]?0\d", value)
    ):
        try:
            number = float(value)
        except OverflowError:  # a whole number of more than 308 digits
            number = math.inf
    else:
        raise _refuse(value, allowed)
    if not math.isfinite(number):
        raise ValueError(f"the number must be finite; write {allowed}")
    return number


def parse_count(value: Any) -> int:
    """The whole number >= 0 in `value`; k, M, B (or G) and T: thousand, million, and so on."""
    allowed = "a whole number such as 200, 200k or 1.5M"
    scale, text = 1, value
    if isinstance(value, str):
        if not re.match(COUNT, value):
            raise _refuse(value, allowed)
        text = value.strip()
        if text[-1].isalpha():
            scale, text = 1000 ** _THOUSANDS[text[-1].lower()], text[:-1].strip()
    number = parse_number(text, allowed) * scale
    if number < 0 or abs(number - round(number)) > 1e-6 * max(1.0, number):
        raise ValueError(f"it must be a whole number that is not negative; write {allowed}")
    return round(number)


def parse_share(value: Any) -> float:
    """The share 0..1 in `value`: `3%`, `0.03`, `1`."""
    allowed = "a share between 0 and 1 such as 3% or 0.03"
    if isinstance(value, str):
        if not re.match(SHARE, value) or re.match(r"^\s*0\d", value):
            raise _refuse(value, allowed)
        text = value.strip()
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    else:
        share = parse_number(value, allowed)
    if not 0 <= share <= 1:
        raise ValueError(f"it must lie between 0 and 1 (0% and 100%); write {allowed}")
    return share


def parse_bytes(value: Any) -> int:
    """Bytes in `value`: GiB counts by 1024, GB by 1000; a bare number is bytes."""
    allowed = "a size such as 22GiB, 24GB or 512MiB"
    if isinstance(value, (int, float)):
        return parse_count(value)
    match = re.match(BYTES, value) if isinstance(value, str) else None
    if match is None:
        raise _refuse(value, allowed)
    number, prefix, binary, _ = match.groups()
    return int(parse_number(number, allowed) * (1024 if binary else 1000) ** _THOUSANDS[prefix.lower()])


def parse_duration(value: Any) -> float:
    """Seconds in `value`: `90s`, `10m`, `8h`, `1d`, `1h30m`; a bare number is seconds."""
    allowed = "a time such as 90s, 10m, 8h or 1h30m"
    if isinstance(value, str) and re.match(DURATION, value):
        pieces = re.findall(r"(\d+(?:\.\d+)?)\s*(min|d|h|m|s)", value)
        return sum(parse_number(number, allowed) * _SECONDS[unit] for number, unit in pieces)
    seconds = parse_number(value, allowed)
    if seconds < 0:
        raise ValueError(f"a time cannot be negative; write {allowed}")
    return seconds


def parse_alpha(value: Any, rank: int) -> float:
    """LoRA's alpha as a number: `2r` is twice `rank`, `r` is `rank`, a number is itself."""
    allowed = "a positive number such as 16, or a multiple of the rank such as 2r"
    match = re.match(ALPHA, value) if isinstance(value, str) else None
    alpha = float(match.group(1) or 1) * rank if match else parse_number(value, allowed)
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0; write {allowed}")
    return alpha
