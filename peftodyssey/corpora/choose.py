"""Which documents an index takes under a cap on tokens: whole documents, in the order of their hash.

One that is longer than the cap is cut at it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from peftodyssey.corpora.documents import Document

BATCH_DOCUMENTS = 256
# Characters kept in memory per token of the cap during the search for the smallest hashes, and of a document. Text has
# about four characters a token; only text of long runs of spaces could need more, and would then stay below its cap.
MAX_CHARACTERS_PER_TOKEN = 12
TYPICAL_CHARACTERS_PER_TOKEN = 4  # decides how much is tokenised at once until the cap is reached


@dataclass(frozen=True)
class TokenizedDocument:
    """One document and its tokens: `ids` int32 [tokens], `offsets` int32 [tokens, 2] in characters."""

    document: Document
    ids: np.ndarray
    offsets: np.ndarray


Tokenize = Callable[[Sequence[Document]], list[TokenizedDocument]]


def choose_documents(
    documents: Iterable[Document],
    tokenize: Tokenize,
    max_tokens: int | None,
    counts: dict[str, Any],
) -> Iterator[TokenizedDocument]:
    """The documents of an index, tokenised, in source order; adds `dropped` and `cut`, sets `truncated` in `counts`.

    Without a cap they pass through one batch at a time. With a cap, no more text is kept in memory than
    `MAX_CHARACTERS_PER_TOKEN` times the cap and one document, and a document of more tokens is cut to as many.
    """
    if max_tokens is None:
        return _tokenized(documents, tokenize, counts)
    candidates = _smallest(documents, max_tokens, counts)
    chosen = sorted(_until(candidates, tokenize, max_tokens, counts), key=lambda pair: pair[0])
    return (document for _, document in chosen)


def _tokenized(
    documents: Iterable[Document], tokenize: Tokenize, counts: dict[str, Any]
) -> Iterator[TokenizedDocument]:
    remaining = iter(documents)
    while batch := list(islice(remaining, BATCH_DOCUMENTS)):
        for tokenized in tokenize(batch):
            if len(tokenized.ids):
                yield tokenized
            else:
                counts["dropped"] += 1


def _smallest(documents: Iterable[Document], max_tokens: int, counts: dict[str, Any]) -> list[tuple[int, Document]]:
    """(position in the source, document) of the smallest hashes that surely hold `max_tokens`, smallest first."""
    heap: list[tuple[int, int, Document]] = []
    characters = 0
    for position, document in enumerate(documents):
        document = beginning(document, max_tokens * MAX_CHARACTERS_PER_TOKEN)
        heapq.heappush(heap, (-int(document.key, 16), -position, document))
        characters += len(document.text)
        while len(heap) > 1 and characters - len(heap[0][2].text) >= max_tokens * MAX_CHARACTERS_PER_TOKEN:
            characters -= len(heapq.heappop(heap)[2].text)
            counts["truncated"] = True
    return [(-position, document) for _, position, document in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]


def _until(
    numbered: list[tuple[int, Document]], tokenize: Tokenize, max_tokens: int, counts: dict[str, Any]
) -> list[tuple[int, TokenizedDocument]]:
    """Documents from the front until their tokens reach the cap."""
    chosen: list[tuple[int, TokenizedDocument]] = []
    tokens = taken = 0
    while taken < len(numbered) and tokens < max_tokens:
        batch = _first_characters(numbered[taken:], (max_tokens - tokens) * TYPICAL_CHARACTERS_PER_TOKEN)
        for (position, _), tokenized in zip(batch, tokenize([document for _, document in batch]), strict=True):
            if tokens >= max_tokens:
                break
            taken += 1
            if len(tokenized.ids):
                chosen.append((position, cut_at(tokenized, max_tokens, counts)))
                tokens += min(len(tokenized.ids), max_tokens)
            else:
                counts["dropped"] += 1
    counts["truncated"] |= taken < len(numbered)
    return chosen


def beginning(document: Document, characters: int) -> Document:
    """The document up to so many characters, under its own hash; answers and places beyond are gone."""
    if len(document.text) <= characters:
        return document
    answers, spelt = (
        tuple((start, min(end, characters)) for start, end in spans if start < characters)
        for spans in (document.answers, document.spelt)
    )
    prompt_chars = min(document.prompt_chars, characters)
    return replace(document, text=document.text[:characters], prompt_chars=prompt_chars, answers=answers, spelt=spelt)


def cut_at(tokenized: TokenizedDocument, max_tokens: int, counts: dict[str, Any]) -> TokenizedDocument:
    """The document up to its token `max_tokens`, and `cut` in `counts` one more where it had more."""
    if len(tokenized.ids) <= max_tokens:
        return tokenized
    counts["cut"] += 1
    ids, offsets = tokenized.ids[:max_tokens], tokenized.offsets[:max_tokens]
    end = int(offsets[:, 1].max()) if len(offsets) else len(tokenized.document.text)
    return TokenizedDocument(beginning(tokenized.document, end), ids, offsets)


def _first_characters(numbered: list[tuple[int, Document]], characters: int) -> list[tuple[int, Document]]:
    """As many from the front as hold `characters`, at least one and at most a batch."""
    batch: list[tuple[int, Document]] = []
    for pair in numbered[:BATCH_DOCUMENTS]:
        batch.append(pair)
        characters -= len(pair[1].text)
        if characters <= 0:
            break
    return batch
