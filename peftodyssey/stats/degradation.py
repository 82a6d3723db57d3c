"""Before against after: two NLL columns over one index as the numbers of a results row. Called by report.collect and
`score`.

Positive differences are worse. Everything is arithmetic on columns; rows that either column does not score are left out
of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from peftodyssey.stats.bootstrap import paired_bootstrap


def compare(
    before_nats: np.ndarray,
    after_nats: np.ndarray,
    document: np.ndarray,
    token_bytes: np.ndarray,
    *,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """NLL, perplexity and bits per byte of both columns and their difference with its 95 % interval.

    Columns are float[n] nats per token, `document` int[n], `token_bytes` int[n] (UTF-8 bytes of each token). Returns
    nll_before, nll_after, delta_nll, delta_lo, delta_hi (nats per token), ppl_before, ppl_after, bpb_before, bpb_after
    (bits per byte of the scored tokens), documents, tokens, note (why there is no interval). Nothing scored: NaN.
    """
    assert before_nats.shape == after_nats.shape == document.shape == token_bytes.shape
    kept = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[kept] for column in (before_nats, after_nats))
    n_bytes = int(token_bytes[kept].sum(dtype=np.int64))
    found = paired_bootstrap(after - before, document[kept], seed=seed, **options)
    nll_before, nll_after = mean_nats(before), mean_nats(after)
    return {
        "nll_before": nll_before,
        "nll_after": nll_after,
        "ppl_before": perplexity(nll_before),
        "ppl_after": perplexity(nll_after),
        "delta_nll": found.estimate,
        "delta_lo": found.lower,
        "delta_hi": found.upper,
        "bpb_before": bits_per_byte(before, n_bytes),
        "bpb_after": bits_per_byte(after, n_bytes),
        "documents": found.n_documents,
        "tokens": len(before),
        "note": found.note,
    }


def mean_nats(nll_nats: np.ndarray) -> float:
    """Mean over the rows that are scored (not NaN), nats per token, summed in float64; NaN where there are none."""
    kept = np.asarray(nll_nats, np.float64)[~np.isnan(nll_nats)]
    return float(kept.sum() / len(kept)) if len(kept) else math.nan


def perplexity(nll_nats: float) -> float:
    """exp of a mean NLL in nats per token; infinite beyond float64."""
    return math.exp(nll_nats) if not nll_nats > 709 else math.inf


def bits_per_byte(nll_nats: np.ndarray, n_bytes: int) -> float:
    """Summed NLL in bits over the UTF-8 bytes of the same tokens: comparable between tokenizers. NaN without bytes."""
    return float(np.asarray(nll_nats, np.float64).sum() / math.log(2) / n_bytes) if n_bytes else math.nan
