"""Chunks of one fixed length out of the documents of an index: the units that texts are compared on. Called by
`jobs.states`.

Distances between samples depend on their sizes, so every text is compared on as many chunks of as many tokens.
"""

from __future__ import annotations

import numpy as np

SEED = 0  # of what is drawn: the same chunks for every base with the same tokenizer


def chunk_starts(starts: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """First rows, int64, of all whole chunks: each document's one after the other from its beginning, none across two.

    `starts` int64 [documents + 1] are the rows at which documents begin, and the number of rows. What is left of a
    document, and a document shorter than a chunk, gives none.
    """
    counts = np.diff(starts) // chunk_tokens
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts[:-1], counts) + within * chunk_tokens


def sample_chunks(
    starts: np.ndarray, chunk_tokens: int, chunks: int, seed: int, kept: np.ndarray | None = None
) -> np.ndarray:
    """First rows of at most `chunks` chunks, drawn without replacement and in random order: any first few are a sample.

    Each chunk is as likely as any other, so a text weighs as its tokens do. `kept` bool [documents]: only of these.
    """
    rows = chunk_starts(starts, chunk_tokens)
    if kept is not None:
        rows = rows[kept[np.searchsorted(starts, rows, side="right") - 1]]
    return np.random.default_rng(seed).permutation(rows)[:chunks]


def random_half(starts: np.ndarray, seed: int) -> np.ndarray:
    """bool [documents]: a random half of the documents by tokens, at least one and not all where there are two or more."""
    sizes = np.diff(starts)
    order = np.random.default_rng(seed).permutation(len(sizes))
    reached = np.cumsum(sizes[order])
    count = int(np.searchsorted(reached, reached[-1] / 2)) + 1
    half = np.zeros(len(sizes), bool)
    half[order[: min(count, max(1, len(sizes) - 1))]] = True
    return half


def chunk_ids(token: np.ndarray, rows: np.ndarray, chunk_tokens: int) -> np.ndarray:
    """The ids of the chunks that begin at `rows`, [chunks, chunk_tokens]."""
    return token[rows[:, None] + np.arange(chunk_tokens)]
