"""Which texts of a plan have too few documents for intervals, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from peftodyssey.plan.tasks import IndexTask, Plan

if TYPE_CHECKING:
    from peftodyssey.models.tokenizer import TextTokenizer

MOST_BYTES = 32 << 20  # of a text that is read for this: `check` answers within a second
SURELY = 0.9  # of the documents that an interval needs: counts are estimates, and a warning must not be wrong


def too_small(plan: Plan) -> Iterator[str]:
    """A sentence for each test and general text on this computer that would be reported without intervals."""
    from peftodyssey.corpora.documents import documents
    from peftodyssey.corpora.index import estimate_token_counts
    from peftodyssey.models.tokenizer import load_tokenizer
    from peftodyssey.stats.bootstrap import MIN_DOCUMENTS

    tokenizers: dict[str, TextTokenizer] = {}
    for index in _judged_on(plan):
        name = index.tokenizer_source.name
        if name not in tokenizers:
            tokenizers[name] = load_tokenizer(index.tokenizer_source)
        read = documents(index.corpus, index.split, index.chat)
        effective = _effective(estimate_token_counts(read, tokenizers[name], index.max_tokens, index.newline))
        if effective < SURELY * MIN_DOCUMENTS:
            cap = "" if index.max_tokens is None else f" within score.tokens, {index.max_tokens:,}"
            yield (
                f"{index.corpus.name}, {index.split}: about {effective:.0f} effective documents{cap}, "
                f"too few for an interval (at least {MIN_DOCUMENTS}); "
                "raise score.tokens, or give the text more held-out documents (split: {test: 20%})"
            )


def _judged_on(plan: Plan) -> Iterator[IndexTask]:
    """The indexes of test and general texts that are small, here, and parted into documents; once for each model's
    tokenizer.
    """
    general = {folder for task in plan.cells for folder in task.general_indexes}
    for index in plan.indexes:
        size = index.corpus.bytes_on_disk
        small = index.corpus.unit == "document" and size is not None and size <= MOST_BYTES
        if small and (index.split == "test" or index.folder in general):
            yield index


def _effective(tokens: list[int]) -> float:
    """(sum w)^2 / sum w^2, as `measure.stats.effective_documents`; 0 for an empty text."""
    return sum(tokens) ** 2 / sum(n * n for n in tokens) if any(tokens) else 0.0
