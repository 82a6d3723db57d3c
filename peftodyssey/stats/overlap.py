"""What two texts share as sequences of tokens: counts, n-grams, near copies. Called by `measure.similarity`.

Jensen-Shannon divergence (Lin 1991) in bits: 0 for equal distributions of tokens, 1 for texts without a common one.
Near copies are found by the exact Jaccard similarity of n-gram sets, through an inverted list of the reference's
n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N = 5  # tokens of an n-gram
NEAR_DUPLICATE = (
    0.5  # Jaccard similarity from which a chunk is a near copy; a verbatim chunk shifted by a quarter has about 0.6
)


@dataclass(frozen=True)
class NGrams:
    """The n-grams of a reference text, each known by a hash of 64 bits."""

    hash: np.ndarray  # uint64 [n-grams], ascending
    row: np.ndarray  # int64 [n-grams]: the row of the text that each begins at
    at: np.ndarray  # uint64 [rows]: the n-gram that begins there ...
    whole: np.ndarray  # bool [rows]: ... where one does, inside a document that is looked at
    starts: np.ndarray  # int64 [documents + 1]: rows at which documents begin, and the number of rows


def js_bits(counts: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence, 0 to 1 bit, of two count vectors over one vocabulary. Too large in small samples."""
    p, q = (np.asarray(c, np.float64) / c.sum() for c in (counts, other))
    middle = (p + q) / 2
    return float(sum(_divergence(part, middle) for part in (p, q)) / 2)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())


def token_counts(token_ct: np.ndarray, other_ct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each token is in either sample, as two vectors over one vocabulary."""
    size = int(max(token_ct.max(), other_ct.max())) + 1
    return np.bincount(token_ct.ravel(), minlength=size), np.bincount(other_ct.ravel(), minlength=size)


def ngrams(token: np.ndarray, starts: np.ndarray, kept: np.ndarray) -> NGrams:
    """The n-grams inside those documents of an index that `kept`, bool [documents], names."""
    at, sizes = np.zeros(len(token), np.uint64), np.diff(starts)
    found = _hashes(token)
    at[: len(found)] = found
    left = np.repeat(starts[1:], sizes) - np.arange(len(token))  # tokens of the document from here on
    whole = (left >= N) & np.repeat(kept, sizes)
    row = np.flatnonzero(whole)
    order = np.argsort(at[row], kind="stable")
    return NGrams(at[row][order], row[order], at, whole, starts)


def ngram_overlap(token_ct: np.ndarray, reference: NGrams) -> float:
    """Share of the chunks' n-grams, 0 to 1, that the reference holds; ids [chunks, tokens]."""
    first, last = _found(_hashes(token_ct).ravel(), reference)
    return float((last > first).mean())


def near_duplicate_share(token_ct: np.ndarray, reference: NGrams) -> float:
    """Share of the chunks, 0 to 1, that have a near copy in the reference: a window of as many tokens, one begun at
    every half chunk, whose set of n-grams has a Jaccard similarity of at least `NEAR` with the chunk's.
    """
    return float(np.mean([max_jaccard(chunk, reference) >= NEAR_DUPLICATE for chunk in token_ct]))


def max_jaccard(token: np.ndarray, reference: NGrams) -> float:
    """The largest Jaccard similarity of a chunk's n-grams, ids [tokens], with a window's; 0 where it is below `NEAR`."""
    own = np.unique(_hashes(token))
    first, last = _found(own, reference)
    rows = np.concatenate([reference.row[a:b] for a, b in zip(first, last, strict=True)])
    gram = np.repeat(np.arange(len(own)), last - first)
    document = np.searchsorted(reference.starts, rows, side="right") - 1
    begin, step = reference.starts[document], max(1, len(token) // 2)
    pairs = []
    for back in range(-(-len(token) // step)):  # the windows that hold the row: the last one begun, and those before
        window = begin + ((rows - begin) // step - back) * step
        inside = (window >= begin) & (rows - window <= len(token) - N)
        pairs.append(np.stack([window[inside], gram[inside]], 1))
    windows, shared = np.unique(np.unique(np.concatenate(pairs), axis=0)[:, 0], return_counts=True)
    close = shared >= NEAR_DUPLICATE * len(own)  # with fewer in common no window reaches NEAR
    sizes = [_distinct(reference, int(window), len(token)) for window in windows[close]]
    return max(
        (both / (len(own) + size - both) for both, size in zip(shared[close].tolist(), sizes, strict=True)), default=0.0
    )


def _found(hashes: np.ndarray, reference: NGrams) -> tuple[np.ndarray, np.ndarray]:
    """Where each n-gram's places begin and end in the reference's list."""
    first, last = (np.searchsorted(reference.hash, hashes, side) for side in ("left", "right"))
    return first, last


def _distinct(reference: NGrams, window: int, chunk_tokens: int) -> int:
    """How many different n-grams a window of the reference holds."""
    end = reference.starts[np.searchsorted(reference.starts, window, side="right")]
    rows = slice(window, min(window + chunk_tokens - N + 1, int(end)))
    return len(np.unique(reference.at[rows][reference.whole[rows]]))


def _hashes(token: np.ndarray) -> np.ndarray:
    """A hash for every n-gram of ids [..., tokens]: uint64 [..., tokens - GRAM + 1]."""
    mixed = _mix(token.astype(np.uint64))
    length = token.shape[-1] - N + 1
    found = np.zeros((*token.shape[:-1], max(length, 0)), np.uint64)
    for place in range(N):
        found = _mix(found + mixed[..., place : place + found.shape[-1]])
    return found


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input stirs every bit of the output."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
