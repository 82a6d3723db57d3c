"""Tokens of a text whose embedding row was never trained: its norm lies far from those of the other rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

FACTOR = 4.0  # of the median norm: rows of trained vocabularies lie within a factor of two


class UntrainedRows(NamedTuple):
    """Rows of the vocabulary with outlying norms, and where a text uses them."""

    rows: int  # of the vocabulary
    places: int  # tokens of the text
    tokens: tuple[int, ...]  # ids that the text uses, the most frequent first


def untrained_rows(model: Any, index: Index) -> UntrainedRows:
    """Rows of the input embeddings whose norm is below a quarter or above four times the median, and their places in
    the text of `index`. Padding and reserved rows are among them; what matters is whether the text uses one.
    """
    with torch.no_grad():
        norm_v = model.get_input_embeddings().weight.detach().float().norm(dim=1)
        middle = norm_v.median()
        outlying = ((norm_v * FACTOR < middle) | (norm_v > FACTOR * middle)).cpu().numpy()
    ids, counts = np.unique(index.token, return_counts=True)
    used = outlying[ids]
    order = np.argsort(-counts[used], kind="stable")
    tokens = tuple(int(token) for token in ids[used][order])
    return UntrainedRows(int(outlying.sum()), int(counts[used].sum()), tokens)
