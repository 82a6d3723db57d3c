"""One row of the table: a difference with its intervals, its verdict, and what would decide it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from peftodyssey.measures.contrast.differences import Difference
from peftodyssey.measures.contrast.table import DOMINANCE
from peftodyssey.stats.contrast import (
    MAX_SEEDS_ADVISED,
    NOT_COMPARABLE,
    UNDECIDED,
    ContrastResult,
    Parts,
    clusters_to_decide,
    seeds_to_decide,
    simultaneous,
)

Row = dict[str, Any]


def row_of(coordinates: Row, difference: Difference, result: ContrastResult | None, pairs: int) -> Row:
    """The row; without `result` it has an estimate at most, and no interval. `pairs` are those that hold together."""
    parts, point = difference.parts, asdict(difference.point)
    row = {
        **coordinates,
        "quantity": difference.quantity,
        "compared_at": point.pop("at"),
        **point,
        "estimate": None if parts is None else parts.estimate,
        "confidence": difference.confidence,
        "storage": difference.storage,
        "verdict": NOT_COMPARABLE,
        "reason": "; ".join(dict.fromkeys(difference.reasons)) or None,
        "clusters": difference.clusters.number,
    }
    if result is None or parts is None:
        return row
    row |= {
        "lo": result.lower,
        "hi": result.upper,
        "equal_lo": result.equal_lower,
        "equal_hi": result.equal_upper,
        "covers": result.covers,
        "degrees_of_freedom": result.degrees_of_freedom,
        "clusters_se": result.clusters_std,
        "seeds_se": None if math.isnan(result.seeds_std) else result.seeds_std,
        "pooled_settings": result.pooled_settings,
    }
    return row | _verdict(row, difference, result, pairs)


def _verdict(row: Row, difference: Difference, result: ContrastResult, pairs: int) -> Row:
    """The simultaneous interval, and the verdict: of a pair that is not named by that interval."""
    parts, margin = difference.parts, row["margin"]
    assert parts is not None, "there is an interval"
    word, columns = result.verdict, {}
    if difference.point.at != DOMINANCE:
        together = simultaneous(parts, result, margin, pairs)
        columns = {"simultaneous_lo": together.lower, "simultaneous_hi": together.upper, "pairs": pairs}
        word = result.verdict if row["named"] else together.verdict
    word = NOT_COMPARABLE if difference.reasons else word
    return {
        **columns,
        "verdict": word,
        "decide": _what_decides(parts, result, margin) if word == UNDECIDED and row["named"] else None,
    }


def _what_decides(parts: Parts, result: ContrastResult, margin: float) -> str:
    seeds = seeds_to_decide(parts, result, margin)
    factor = clusters_to_decide(parts, result, margin)
    options = [f"{seeds} seeds"] if seeds else []
    options += [f"{factor:g} times as many clusters"] if factor else []
    return " or ".join(options) or f"more than {MAX_SEEDS_ADVISED} seeds and more clusters"
