"""One row of the table: a difference with its interval, its verdict, and what would decide it."""

from __future__ import annotations

import math
from typing import Any

from peftodyssey.measures.contrast.differences import Difference
from peftodyssey.stats.contrast import (
    MAX_SEEDS_ADVISED,
    NOT_COMPARABLE,
    UNDECIDED,
    ContrastResult,
    Parts,
    clusters_to_decide,
    seeds_to_decide,
)

Row = dict[str, Any]


def row_of(coordinates: Row, difference: Difference, result: ContrastResult | None) -> Row:
    """The row; without `result` it has an estimate at most, and no interval."""
    parts, margin = difference.parts, coordinates["margin"]
    row = {
        **coordinates,
        "quantity": difference.quantity,
        "compared_at": difference.at,
        "level": difference.level,
        "share": difference.share,
        "method_lr": difference.method_lr,
        "minus_lr": difference.minus_lr,
        "estimate": None if parts is None else parts.estimate,
        "confidence": difference.confidence,
        "verdict": NOT_COMPARABLE,
        "reason": "; ".join(difference.reasons) or None,
        "clusters": difference.clusters.number,
    }
    if result is None or parts is None:
        return row
    verdict = NOT_COMPARABLE if difference.reasons else result.verdict
    return {
        **row,
        "lo": result.lower,
        "hi": result.upper,
        "equal_lo": result.equal_lower,
        "equal_hi": result.equal_upper,
        "covers": result.covers,
        "verdict": verdict,
        "decide": _what_decides(parts, result, margin) if verdict == UNDECIDED else None,
        "degrees_of_freedom": result.degrees_of_freedom,
        "clusters_se": result.clusters_std,
        "seeds_se": None if math.isnan(result.seeds_std) else result.seeds_std,
        "pooled_settings": result.pooled_settings,
    }


def _what_decides(parts: Parts, result: ContrastResult, margin: float) -> str:
    seeds = seeds_to_decide(parts, result, margin)
    factor = clusters_to_decide(parts, result, margin)
    options = [f"{seeds} seeds"] if seeds else []
    options += [f"{factor:g} times as many clusters"] if factor else []
    return " or ".join(options) or f"more than {MAX_SEEDS_ADVISED} seeds and more clusters"
