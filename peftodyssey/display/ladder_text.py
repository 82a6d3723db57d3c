"""How slopes along a ladder are said: the slope with its verdict, or why it is not a line and how it goes."""

from __future__ import annotations

from collections.abc import Sequence

from peftodyssey.display.result_text import UNIT, Row, columns_of, ends, interval
from peftodyssey.stats.contrast import EQUAL, LESS, MORE, NOT_COMPARABLE, UNDECIDED
from peftodyssey.stats.ladder import FALLS, NO_CLEAR_STEP, PEAK, RISES, UP_AND_DOWN, VALLEY

SLOPE = ("slope", "slope_lo", "slope_hi")
CHANGE = ("change", "lo", "hi")
DIGITS = 4
SAME_LINE = (
    "run",
    "recipe",
    "model",
    "arm",
    "corpus",
    "domain",
    "newline",
    "quantity",
    "intervention",
    "minus",
    "gamma",
    "compared_at",
    "budget",
    "lr",
)
SHAPES = {FALLS: "it falls", RISES: "it rises", UP_AND_DOWN: "it goes up and down", NO_CLEAR_STEP: "no step is clear"}
TURNS = {VALLEY: ("falls", "rises"), PEAK: ("rises", "falls")}


def format_tokens(count: float | None) -> str:
    """Pretraining tokens as people write them: 64M tokens, 2.3T tokens; a dash where there are none."""
    if count is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit} tokens"
    return f"{count:g} tokens"


def slope_text(slope: Row, steps: Sequence[Row]) -> str:
    """What can be said of a line: `+0.0102 [+0.0065, +0.0138] nats/token per tenfold pretraining (...): ...`.

    `slope` is a row of `sensitivity.parquet`, `steps` are rows of `rung_steps.parquet`.
    """
    if slope["shape"]:
        return f"not a line in log tokens: {_shape(slope)} ({_steps(slope, steps)}{_only(slope)})"
    if slope["slope"] is None:
        return f"no slope ({slope['reason']})"
    number = f"{interval(slope, SLOPE, DIGITS)} {UNIT} per tenfold pretraining"
    covers = f" ({slope['covers']}{' only' if slope['covers'] == 'clusters' else ''})" if slope["covers"] else ""
    return f"{number}{covers}: {_verdict(slope)}"


def _verdict(slope: Row) -> str:
    inside = f"the 90 % interval {ends(slope['equal_lo'], slope['equal_hi'], DIGITS)} is within {slope['margin']:g}"
    two_rungs = ", from two rungs, which cannot show whether it is a line" if slope["rungs"] == 2 else ""
    words = {
        MORE: f"more with longer pretraining{two_rungs}",
        LESS: f"less with longer pretraining{two_rungs}",
        EQUAL: f"equal along the ladder ({inside}){two_rungs}",
        UNDECIDED: f"undecided whether it grows or falls with longer pretraining{two_rungs}",
        NOT_COMPARABLE: f"no verdict ({slope['reason']})",
    }
    return words[slope["verdict"]]


def _only(slope: Row) -> str:
    return f"; over clusters only: {slope['reason']}" if slope["covers"] == "clusters" else ""


def _shape(slope: Row) -> str:
    if slope["shape"] in TURNS:
        before, after = TURNS[slope["shape"]]
        return f"it {before} to {format_tokens(slope['turn_tokens'])} and {after} after"
    return SHAPES[slope["shape"]]


def _steps(slope: Row, steps: Sequence[Row]) -> str:
    key = columns_of(*SAME_LINE)
    own = sorted((step for step in steps if key(step) == key(slope)), key=lambda step: step["tokens_from"])
    return ", ".join(f"{interval(step, CHANGE, DIGITS)} to {format_tokens(step['tokens_to'])}" for step in own)


def lowest_text(slope: Row) -> str:
    """Where the changed model's loss is lowest, to follow "the loss"; empty where it was not computed.

    A set of rungs that holds the lowest one with at least 95 %.
    """
    first, last = slope["lowest_from"], slope["lowest_to"]
    if first is None:
        return ""
    if first > slope["tokens_from"] and last < slope["tokens_to"]:
        between = format_tokens(first) if first == last else f"{format_tokens(first)} to {format_tokens(last)}"
        return f"is lowest at {between} and turns up before {format_tokens(slope['tokens_to'])}"
    if first == slope["tokens_to"]:
        return "is lowest at the last rung"
    if last == slope["tokens_from"]:
        return "is lowest at the first rung"
    return f"is lowest somewhere from {format_tokens(first)} to {format_tokens(last)}"
