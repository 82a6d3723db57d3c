"""A token index made by hand, without files."""

from __future__ import annotations

import numpy as np

from peftodyssey.corpora import index


def hand_index(documents, trained=None):
    """An index of token ids as given, without files."""
    token = np.array([t for d in documents for t in d], dtype=np.int32)
    number = np.repeat(np.arange(len(documents)), [len(d) for d in documents]).astype(np.int32)
    starts = np.cumsum([0] + [len(d) for d in documents]).astype(np.int64)
    flags = (
        np.ones(len(token), dtype=bool) if trained is None else np.array([t for d in trained for t in d], dtype=bool)
    )
    zero = np.zeros_like(token)
    return index.Index(None, number, zero, token, zero, zero, zero, zero.astype(np.int8), flags, starts)
