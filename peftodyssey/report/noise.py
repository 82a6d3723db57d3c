"""The cost of weight noise, in sentences.

Made of rows of `noise.parquet` and `sensitivity.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.result_text import UNIT, interval, signed
from peftodyssey.report.section import Section

if TYPE_CHECKING:
    pass

Row = Mapping[str, Any]
SECTION = "noise"
QUESTION = "How much does noise of the weights cost, and does it cost more the longer the pretraining?"
UNMEASURED = (
    "Noise of the weights was not measured: add `- noise: {gammas: [0.1, 0.2, 0.4]}` to the recipe's `measure`."
)
SCALES = {
    "initializer": "the configuration's initial standard deviation",
    "fan_in": "1/sqrt(fan_in)",
    "earliest_rung": "the root mean square of the earliest rung",
    "relative": "the root mean square of the current weights (relative noise)",
}
LINE = ("run", "recipe", "model", "arm", "corpus")


def section(noise: Sequence[Row], sensitivity: Sequence[Row]) -> Section | None:
    """The question with its answers; None where nothing of it was measured."""
    said = statements(noise, sensitivity)
    return Section(SECTION, QUESTION, said) if said else None


def statements(noise: Sequence[Row], sensitivity: Sequence[Row]) -> list[str]:
    """One sentence a ladder and text at the largest noise, then what low rank, updates and rounding cost at the same
    norm.
    """
    said = [text for rungs in _lines(noise, "gaussian") for text in _said(rungs, noise, sensitivity)]
    said += _rounding(noise, sensitivity)
    if any(row["kind"] != "quantiser" for row in noise):
        first = next(row for row in noise if row["kind"] != "quantiser")
        said.append(
            f"Gamma is in units of {SCALES[first['scale']]}; shifted: {first['tensors'].replace(',', ', ')}. "
            f"Intervals are over pairs of noise and "
            "documents, given these checkpoints: another pretraining run may differ by more."
        )
    return said


def _lines(noise: Sequence[Row], kind: str) -> Iterator[list[Row]]:
    """Rows of a kind by ladder and text, each at its largest gamma, by pretraining tokens."""
    keys = dict.fromkeys(tuple(row.get(name) for name in LINE) for row in noise if row["kind"] == kind)
    for key in keys:
        own = [row for row in noise if row["kind"] == kind and tuple(row.get(name) for name in LINE) == key]
        largest = max(row["gamma"] for row in own)
        yield sorted((row for row in own if row["gamma"] == largest), key=lambda row: row["pretrain_tokens"] or 0)


def _said(rungs: Sequence[Row], noise: Sequence[Row], sensitivity: Sequence[Row]) -> Iterator[str]:
    first, last = rungs[0], rungs[-1]
    where = f"{first['corpus']}, {first['arm'] or first['model']}"
    opening = (
        f"{where}: noise of gamma {first['gamma']:g} costs {interval(first, 'rise_nats', 'lo', 'hi', 4)} "
        f"{UNIT} at {base(first)}"
    )
    if len(rungs) == 1:
        yield opening + "."
    else:
        yield (
            f"{opening} and {interval(last, 'rise_nats', 'lo', 'hi', 4)} at {base(last)}; {_trend(first, sensitivity)}."
        )
    yield from _at_equal_norm(last, noise)


def _trend(row: Row, sensitivity: Sequence[Row]) -> str:
    found = slope_of(row, sensitivity, "gaussian")
    if found is None:
        return "the pretraining tokens of the rungs are not known, so no trend is given"
    amount, turns = interval(found, "slope", "slope_lo", "slope_hi", 4), turn(found)
    return f"per tenfold pretraining {amount} {UNIT}: {verdict(found)}" + f"; with the noise, the loss {turns}" * bool(
        turns
    )


def turn(row: Row) -> str:
    """Where the modified model's loss is lowest along the ladder, in words to follow "the loss"; empty where it was not
    asked.
    """
    if row["turn_tokens"]:
        return f"is lowest at {tokens(row['turn_tokens'])} [{tokens(row['turn_lo'])}, {tokens(row['turn_hi'])}]"
    if row["turn_share"] is None:
        return ""
    return "rises from the first rung on" if row["turn_share"] > 0.5 else "falls to the last rung"


def slope_of(row: Row, sensitivity: Sequence[Row], who: str) -> Row | None:
    """The slope of the line that a row of noise belongs to."""
    same = ("run", "recipe", "model", "arm", "corpus", "gamma")
    return next(
        (
            s
            for s in sensitivity
            if s["quantity"] == "noise"
            and s["intervention"] == who
            and not s["minus"]
            and all(s.get(n) == row.get(n) for n in same)
        ),
        None,
    )


def verdict(row: Row) -> str:
    """What a slope's interval says."""
    if row["slope_lo"] is None:
        return "no interval, so no verdict"
    if row["slope_lo"] > 0:
        return "longer pretraining costs more"
    return "longer pretraining costs less" if row["slope_hi"] < 0 else "no clear trend"


def _at_equal_norm(row: Row, noise: Sequence[Row]) -> Iterator[str]:
    """What other shifts of the same length cost on the same base and text."""
    same = (*LINE, "revision", "pretrain_tokens")
    others = [
        o
        for o in noise
        if o["kind"] in ("low_rank", "update")
        and o["gamma"] == row["gamma"]
        and all(o.get(n) == row.get(n) for n in same)
    ]
    if others:
        costs = ", ".join(f"{who(o)} {interval(o, 'rise_nats', 'lo', 'hi', 4)}" for o in others)
        yield (
            f"{row['corpus']}, {base(row)}, at the same Frobenius norm ({row['norm']:.3g}): gaussian "
            f"{signed(row['rise_nats'], 4)}, {costs} {UNIT}."
        )


def _rounding(noise: Sequence[Row], sensitivity: Sequence[Row]) -> Iterator[str]:
    """The cost of quantising the weights without any adapter, at the first and last rung of each ladder."""
    keys = dict.fromkeys(
        (*(row.get(name) for name in LINE), row["quantiser"]) for row in noise if row["kind"] == "quantiser"
    )
    for key in keys:
        own = [
            row
            for row in noise
            if row["kind"] == "quantiser" and (*(row.get(name) for name in LINE), row["quantiser"]) == key
        ]
        own.sort(key=lambda row: row["pretrain_tokens"] or 0)
        costs = " and ".join(
            f"{interval(row, 'rise_nats', 'lo', 'hi', 4)} {UNIT} at {base(row)}"
            for row in (own[:1] + own[-1:])[: len(own)]
        )
        slope = slope_of(own[0], sensitivity, str(own[0]["quantiser"]))
        trend = (
            f"; per tenfold pretraining {interval(slope, 'slope', 'slope_lo', 'slope_hi', 4)}: {verdict(slope)}"
            if slope
            else ""
        )
        where = f"{own[0]['corpus']}, {own[0]['arm'] or own[0]['model']}"
        yield (
            f"{where}: rounding the weights to {own[0]['quantiser']} alone (norm {own[-1]['norm']:.3g}) costs "
            f"{costs}{trend}."
        )


def who(row: Row) -> str:
    """A shift in words."""
    if row["kind"] == "low_rank":
        return f"rank {row['rank']}"
    return f"along the update of {row['label']}" if row["kind"] == "update" else str(row["quantiser"] or row["kind"])


def base(row: Row) -> str:
    """The rung by its tokens, else by its name."""
    return (
        tokens(row["pretrain_tokens"]) if row["pretrain_tokens"] is not None else str(row["revision"] or row["model"])
    )


def tokens(count: float | None) -> str:
    """Pretraining tokens as people write them: 64M tokens, 2.3T tokens; a dash outside of the ladder."""
    if count is None:
        return "beyond the ladder"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit} tokens"
    return f"{count:g} tokens"
