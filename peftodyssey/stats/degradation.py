"""Before against after: two NLL columns over one token index as the numbers of a row of results.

Positive differences are worse. Tokens that either column does not score are left out of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftodyssey.stats.bootstrap import paired_bootstrap


@dataclass(frozen=True)
class TextChange:
    """A text before and after; what is not finite is None."""

    nll_before: float | None  # nats per token
    nll_after: float | None
    ppl_before: float | None
    ppl_after: float | None
    delta_nll: float | None  # nll_after - nll_before; positive: worse
    delta_lo: float | None  # ends of its 95 % interval over documents
    delta_hi: float | None
    bpb_before: float | None  # bits per byte of the scored tokens
    bpb_after: float | None
    documents: int
    tokens: int
    note: str  # why there is no interval, or ""


def compare(
    before_nats: np.ndarray, after_nats: np.ndarray, document: np.ndarray, token_bytes: np.ndarray
) -> TextChange:
    """Both columns and their difference.

    Columns are float [n] nats per token, `document` int [n], `token_bytes` int [n] (UTF-8 bytes of each token).
    """
    assert before_nats.shape == after_nats.shape == document.shape == token_bytes.shape
    scored = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[scored] for column in (before_nats, after_nats))
    n_bytes = int(token_bytes[scored].sum(dtype=np.int64))
    change = paired_bootstrap(after - before, document[scored])
    nll_before, nll_after = mean_nats(before), mean_nats(after)
    return TextChange(
        nll_before=finite(nll_before),
        nll_after=finite(nll_after),
        ppl_before=finite(perplexity(nll_before)),
        ppl_after=finite(perplexity(nll_after)),
        delta_nll=finite(change.estimate),
        delta_lo=change.lower,
        delta_hi=change.upper,
        bpb_before=finite(bits_per_byte(before, n_bytes)),
        bpb_after=finite(bits_per_byte(after, n_bytes)),
        documents=change.n_documents,
        tokens=len(before),
        note=change.note,
    )


def compare_texts(texts: Sequence[Mapping[str, Any]], read: Callable[[str, str], np.ndarray]) -> TextChange:
    """`compare` over pooled texts, whose documents stay distinct.

    Each text names the folders of its `index`, `before` and `after`; `read` gives a column of a folder.
    """
    documents, first = [], 0
    for text in texts:
        numbers = read(text["index"], "document").astype(np.int64) + first
        documents.append(numbers)
        first = int(numbers.max(initial=first - 1)) + 1
    before, after = (np.concatenate([read(text[stage], "nll_nats") for text in texts]) for stage in ("before", "after"))
    token_bytes = np.concatenate([read(text["index"], "bytes") for text in texts])
    return compare(before, after, np.concatenate(documents), token_bytes)


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


def difference(value: float | None, other: float | None) -> float | None:
    """value - other; None where one of them is missing."""
    return None if value is None or other is None else value - other
