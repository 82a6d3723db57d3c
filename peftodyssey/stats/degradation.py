"""Before against after: two NLL columns over one token index as the numbers of a row of results.

Positive differences are worse. Tokens that either column does not score are left out of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from peftodyssey.stats.bootstrap import paired_bootstrap


def compare(
    before_nats: np.ndarray, after_nats: np.ndarray, document: np.ndarray, token_bytes: np.ndarray
) -> dict[str, Any]:
    """NLL, perplexity and bits per byte of both columns, and their difference with its 95 % interval.

    Columns are float [n] nats per token, `document` int [n], `token_bytes` int [n] (UTF-8 bytes of each token). Returns
    nll_before, nll_after, delta_nll, delta_lo, delta_hi (nats per token), ppl_before, ppl_after, bpb_before, bpb_after
    (bits per byte of the scored tokens), documents, tokens, note (why there is no interval). NaN if nothing is scored.
    """
    assert before_nats.shape == after_nats.shape == document.shape == token_bytes.shape
    scored = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[scored] for column in (before_nats, after_nats))
    n_bytes = int(token_bytes[scored].sum(dtype=np.int64))
    change = paired_bootstrap(after - before, document[scored])
    nll_before, nll_after = mean_nats(before), mean_nats(after)
    return {
        "nll_before": nll_before,
        "nll_after": nll_after,
        "ppl_before": perplexity(nll_before),
        "ppl_after": perplexity(nll_after),
        "delta_nll": change.estimate,
        "delta_lo": change.lower,
        "delta_hi": change.upper,
        "bpb_before": bits_per_byte(before, n_bytes),
        "bpb_after": bits_per_byte(after, n_bytes),
        "documents": change.n_documents,
        "tokens": len(before),
        "note": change.note,
    }


def mean_nats(nll_nats: np.ndarray) -> float:
    """Mean over the scored rows (not NaN), nats per token, summed in float64; NaN where there are none."""
    scored = np.asarray(nll_nats, np.float64)[~np.isnan(nll_nats)]
    return float(scored.sum() / len(scored)) if len(scored) else math.nan


def perplexity(nll_nats: float) -> float:
    """exp of a mean NLL in nats per token; infinite where float64 overflows."""
    return math.exp(nll_nats) if not nll_nats > 709 else math.inf


def bits_per_byte(nll_nats: np.ndarray, n_bytes: int) -> float:
    """Summed NLL in bits over the UTF-8 bytes of the same tokens: comparable across tokenizers. NaN without bytes."""
    return float(np.asarray(nll_nats, np.float64).sum() / math.log(2) / n_bytes) if n_bytes else math.nan


def finite(value: float) -> float | None:
    """The value, or None (NULL in tables) where it is NaN or infinite."""
    return value if math.isfinite(value) else None
