"""Chunks of one fixed length from the documents of a token index: the units on which texts are compared.

Distances between samples depend on the sample size, so every text is compared on equally many chunks of equal length.
"""

from __future__ import annotations

import numpy as np

SEED = 0  # of every draw: bases with the same tokenizer get the same chunks


def chunk_starts(starts: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """First rows, int64, of all whole chunks; chunks follow each other within a document and never cross into another.

    `starts` int64 [documents + 1]: the rows at which documents begin, then the number of rows. The rest of a document
    and documents shorter than a chunk are left out.
    """
    counts = np.diff(starts) // chunk_tokens
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts[:-1], counts) + within * chunk_tokens


def sample_chunks(
    starts: np.ndarray, chunk_tokens: int, n_chunks: int, seed: int, documents: np.ndarray | None = None
) -> np.ndarray:
    """First rows of at most `n_chunks` chunks, drawn without replacement, in random order (any first k are a sample).

    Every chunk is equally likely, so documents count by their length. `documents` bool [documents]: only chunks of
    these.
    """
    rows = chunk_starts(starts, chunk_tokens)
    if documents is not None:
        rows = rows[documents[np.searchsorted(starts, rows, side="right") - 1]]
    return np.random.default_rng(seed).permutation(rows)[:n_chunks]


def random_half(starts: np.ndarray, seed: int) -> np.ndarray:
    """bool [documents]: a random half of the documents by tokens; of two or more documents neither none nor all."""
    sizes = np.diff(starts)
    order = np.random.default_rng(seed).permutation(len(sizes))
    cumulative = np.cumsum(sizes[order])
    count = int(np.searchsorted(cumulative, cumulative[-1] / 2)) + 1
    half = np.zeros(len(sizes), bool)
    half[order[: min(count, max(1, len(sizes) - 1))]] = True
    return half


def chunk_ids(token: np.ndarray, rows: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """Token ids of the chunks that begin at `rows`, [chunks, chunk_tokens]."""
    return token[rows[:, None] + np.arange(chunk_tokens)]
