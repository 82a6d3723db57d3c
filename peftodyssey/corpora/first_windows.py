"""The first window of some documents of a text: many documents for few tokens. Called by `jobs.perturb`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index


def first_windows(index: Index, documents: int, tokens: int) -> Index:
    """The first `tokens` tokens of at most `documents` documents, chosen at random once and for all, in the order of
    the index.
    """
    import numpy as np

    count = len(index.starts) - 1
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:documents])
    begins, ends = index.starts[chosen], np.minimum(index.starts[chosen + 1], index.starts[chosen] + tokens)
    rows = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
    starts = np.concatenate([[0], np.cumsum(ends - begins)]).astype(np.int64)
    columns = ("document", "position", "token", "start", "end", "bytes", "token_class", "trained")
    return replace(index, **{name: getattr(index, name)[rows] for name in columns}, starts=starts)
