"""Overlap of two texts as sequences of tokens: token distributions, n-grams, near duplicates.

The Jensen-Shannon divergence (Lin 1991) is in bits: 0 for equal distributions of tokens, 1 for texts without a common
token. Near duplicates are found by the exact Jaccard similarity of n-gram sets, with an inverted index of the
reference's n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N = 5  # tokens of an n-gram
NEAR_DUPLICATE = 0.5  # Jaccard similarity of a near duplicate; a verbatim chunk shifted by a quarter has about 0.6


@dataclass(frozen=True)
class NGrams:
    """The n-grams of a reference text, each as a hash of 64 bits."""

    hash: np.ndarray  # uint64 [n-grams], ascending
    row: np.ndarray  # int64 [n-grams]: the row of the text at which each begins
    hash_at: np.ndarray  # uint64 [rows]: the n-gram that begins at each row ...
    is_start: np.ndarray  # bool [rows]: ... if one does, inside a document that belongs to the reference
    starts: np.ndarray  # int64 [documents + 1]: rows at which documents begin, and the number of rows


def js_bits(counts: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence, 0 to 1 bit, of two count vectors over one vocabulary. Biased upwards if small."""
    p, q = (np.asarray(c, np.float64) / c.sum() for c in (counts, other))
    middle = (p + q) / 2
    return float(sum(_divergence(part, middle) for part in (p, q)) / 2)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    positive = p > 0
    return float((p[positive] * np.log2(p[positive] / q[positive])).sum())


def token_counts(token_ct: np.ndarray, other_ct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each token occurs in either sample, as two vectors over one vocabulary."""
    size = int(max(token_ct.max(), other_ct.max())) + 1
    return np.bincount(token_ct.ravel(), minlength=size), np.bincount(other_ct.ravel(), minlength=size)


def ngrams(token: np.ndarray, starts: np.ndarray, in_reference: np.ndarray) -> NGrams:
    """The n-grams inside those documents of a token index that are `in_reference`, bool [documents]."""
    hash_at, sizes = np.zeros(len(token), np.uint64), np.diff(starts)
    hashes = _hashes(token)
    hash_at[: len(hashes)] = hashes
    remaining = np.repeat(starts[1:], sizes) - np.arange(len(token))  # tokens of the document from here on
    is_start = (remaining >= N) & np.repeat(in_reference, sizes)
    row = np.flatnonzero(is_start)
    order = np.argsort(hash_at[row], kind="stable")
    return NGrams(hash_at[row][order], row[order], hash_at, is_start, starts)


def ngram_overlap(token_ct: np.ndarray, reference: NGrams) -> float:
    """Share of the chunks' n-grams, 0 to 1, that occur in the reference; ids [chunks, tokens]."""
    first, last = _occurrences(_hashes(token_ct).ravel(), reference)
    return float((last > first).mean())


def near_duplicate_share(token_ct: np.ndarray, reference: NGrams) -> float:
    """Share of the chunks, 0 to 1, that have a near duplicate among the reference's windows of the same length.

    A window begins every half chunk; it is a near duplicate if the Jaccard similarity of the n-gram sets is at least
    NEAR_DUPLICATE.
    """
    return float(np.mean([max_jaccard(chunk, reference) >= NEAR_DUPLICATE for chunk in token_ct]))


def max_jaccard(token: np.ndarray, reference: NGrams) -> float:
    """The largest Jaccard similarity of a chunk's n-grams, ids [tokens], with a window's; 0 if below NEAR_DUPLICATE."""
    chunk_ngrams = np.unique(_hashes(token))
    first, last = _occurrences(chunk_ngrams, reference)
    rows = np.concatenate([reference.row[a:b] for a, b in zip(first, last, strict=True)])
    ngram = np.repeat(np.arange(len(chunk_ngrams)), last - first)
    document = np.searchsorted(reference.starts, rows, side="right") - 1
    begin, step = reference.starts[document], max(1, len(token) // 2)
    pairs = []
    for back in range(-(-len(token) // step)):  # the windows that contain the row: the latest, and those before
        window = begin + ((rows - begin) // step - back) * step
        inside = (window >= begin) & (rows - window <= len(token) - N)
        pairs.append(np.stack([window[inside], ngram[inside]], 1))
    windows, shared = np.unique(np.unique(np.concatenate(pairs), axis=0)[:, 0], return_counts=True)
    candidate = shared >= NEAR_DUPLICATE * len(chunk_ngrams)  # necessary for a Jaccard similarity that high
    sizes = [_distinct(reference, int(window), len(token)) for window in windows[candidate]]
    return max(
        (n / (len(chunk_ngrams) + size - n) for n, size in zip(shared[candidate].tolist(), sizes, strict=True)),
        default=0.0,
    )


def _occurrences(hashes: np.ndarray, reference: NGrams) -> tuple[np.ndarray, np.ndarray]:
    """Where the occurrences of each n-gram begin and end in the reference's sorted list."""
    first, last = (np.searchsorted(reference.hash, hashes, side) for side in ("left", "right"))
    return first, last


def _distinct(reference: NGrams, window: int, chunk_tokens: int) -> int:
    """The number of different n-grams in a window of the reference."""
    end = reference.starts[np.searchsorted(reference.starts, window, side="right")]
    rows = slice(window, min(window + chunk_tokens - N + 1, int(end)))
    return len(np.unique(reference.hash_at[rows][reference.is_start[rows]]))


def _hashes(token: np.ndarray) -> np.ndarray:
    """A hash for every n-gram of ids [..., tokens]: uint64 [..., tokens - GRAM + 1]."""
    mixed = _mix(token.astype(np.uint64))
    length = token.shape[-1] - N + 1
    hashes = np.zeros((*token.shape[:-1], max(length, 0)), np.uint64)
    for offset in range(N):
        hashes = _mix(hashes + mixed[..., offset : offset + hashes.shape[-1]])
    return hashes


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit affects every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
