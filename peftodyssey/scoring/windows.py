"""Which tokens a scoring pass reads and which it scores: every token once, with the longest context that fits.

The same windows as lm-eval's `get_rolling_token_windows` with
`max_seq_len=context, context_len=context - stride + 1`; the last window, too, reaches back a full context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftodyssey.errors import InputError
from peftodyssey.recipe.cell import ScoreSpec


def windows(n_tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Windows over a text of `n_tokens` that follows one prefix token, as (begin, end, first_scored).

    Position i reads the token before token i (the prefix at 0) and predicts token i. A window reads positions
    begin..end-1, at most `context` of them, and scores the tokens first_scored..end-1: up to `context` in the first
    window, up to `stride` in each later one. Raises InputError unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise InputError(
            f"score.stride is {stride} and score.context {context}; a window scores 1 to `context` new tokens",
            f"set score.stride to a number from 1 to {max(context, 1)}, e.g. {max(context // 2, 1)}",
        )
    first_window = [(0, min(context, n_tokens), 0)] if n_tokens else []
    ends = ((min(first + stride, n_tokens), first) for first in range(context, n_tokens, stride))
    return first_window + [(end - context, end, first) for end, first in ends]


@dataclass(frozen=True)
class WindowTable:
    """All windows of a corpus, one row each, as int64[n_windows] arrays; `source` is what they read."""

    source: np.ndarray  # int64: the corpus' tokens, a prefix before every text where the policy is bos
    begin: np.ndarray  # position in `source` of the first input
    length: np.ndarray  # inputs of the window, in tokens
    row: np.ndarray  # index row that the first input predicts
    scored: np.ndarray  # how many of the last inputs' predictions are scored

    def __len__(self) -> int:
        return len(self.begin)


def corpus_windows(token: np.ndarray, starts: np.ndarray, spec: ScoreSpec, prefix: int | None) -> WindowTable:
    """Every window of every document (mode documents), or of the whole split joined in index order (mode stream).

    `token` int[n_rows]; `starts` int64[n_documents + 1] first rows. In mode stream the scored parts are disjoint
    windows of `context`, the stride is not read. first_token skip: no prefix, a text's first token only gives context;
    so does the first token of a text that begins with `prefix` itself. Raises InputError where the policy is bos and
    there is no prefix token.
    """
    skipped = spec.first_token == "skip"
    if not skipped and prefix is None:
        raise InputError(
            "score.first_token is bos, but the tokenizer has neither a bos nor an eos token",
            "set score.first_token: skip",
        )
    stride = spec.stride if spec.mode == "documents" else spec.context
    edges = np.asarray(starts, np.int64) if spec.mode == "documents" else np.array([0, len(token)], np.int64)
    source = np.asarray(token, np.int64)
    # a text that has the prefix as its first token (`special_tokens: parse`) gets no second one
    has_prefix = np.full(len(edges) - 1, skipped)
    filled = np.flatnonzero(edges[:-1] < edges[1:])
    has_prefix[filled] |= source[edges[:-1][filled]] == prefix
    if not skipped and prefix is not None:
        source = np.insert(source, edges[:-1][~has_prefix], prefix)
    inserted = np.cumsum(~has_prefix) - ~has_prefix  # before each text
    rows = [
        (first + before + begin, end - begin, first + skip + begin, end - scored_from)
        for first, last, before, skip in zip(
            edges[:-1].tolist(), edges[1:].tolist(), inserted.tolist(), has_prefix.tolist(), strict=True
        )
        for begin, end, scored_from in windows(last - first - skip if last > first else 0, spec.context, stride)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return WindowTable(source, *columns)
