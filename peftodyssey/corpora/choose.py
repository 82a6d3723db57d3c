"""Which documents an index takes when it has a cap: whole ones, in the order of their hash. Called by corpora.index."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora.documents import Document

if TYPE_CHECKING:
    import numpy as np

BATCH_DOCUMENTS = 256
# Characters held per token of the cap while the smallest hashes are looked for. Text has about four characters a token;
# only text made of very long runs of spaces could need more, and would then stay below its cap.
CHARACTERS_PER_TOKEN = 32
USUAL_CHARACTERS_PER_TOKEN = 4  # how much is tokenised at once on the way to a cap


@dataclass(frozen=True)
class TokenizedDocument:
    """One document and its tokens: `ids` int32 [tokens], `offsets` int32 [tokens, 2] in characters."""

    document: Document
    ids: np.ndarray | range
    offsets: np.ndarray | tuple[()]


Encode = Callable[[Sequence[Document]], list[TokenizedDocument]]


def choose(
    documents: Iterable[Document],
    encode: Encode,
    max_tokens: int | None,
    shuffle_seed: int | None,
    count: dict[str, Any],
) -> Iterator[TokenizedDocument]:
    """The documents of an index, tokenised, in source order or shuffled; adds `dropped`, sets `truncated` in `count`.

    Without a cap and a seed they pass through one batch at a time. With a cap, no more text is held than
    `CHARACTERS_PER_TOKEN` times the cap and one document.
    """
    if max_tokens is None and shuffle_seed is None:
        return _encoded(documents, encode, count)
    numbered = list(enumerate(documents)) if max_tokens is None else _smallest(documents, max_tokens, count)
    if max_tokens is not None:
        kept = _until(numbered, encode, max_tokens, count)
    else:
        kept = list(enumerate(_encoded((document for _, document in numbered), encode, count)))
    kept.sort(key=lambda pair: pair[0])
    return iter(_shuffled([encoded for _, encoded in kept], shuffle_seed))


def _encoded(documents: Iterable[Document], encode: Encode, count: dict[str, Any]) -> Iterator[TokenizedDocument]:
    remaining = iter(documents)
    while batch := list(islice(remaining, BATCH_DOCUMENTS)):
        for encoded in encode(batch):
            if len(encoded.ids):
                yield encoded
            else:
                count["dropped"] += 1


def _smallest(documents: Iterable[Document], max_tokens: int, count: dict[str, Any]) -> list[tuple[int, Document]]:
    """(place in the source, document) of the smallest hashes that surely hold `max_tokens`, smallest first."""
    heap: list[tuple[int, int, Document]] = []
    held = 0
    for place, document in enumerate(documents):
        heapq.heappush(heap, (-int(document.key, 16), -place, document))
        held += len(document.text)
        while len(heap) > 1 and held - len(heap[0][2].text) >= max_tokens * CHARACTERS_PER_TOKEN:
            held -= len(heapq.heappop(heap)[2].text)
            count["truncated"] = True
    return [(-place, document) for _, place, document in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]


def _until(
    numbered: list[tuple[int, Document]], encode: Encode, max_tokens: int, count: dict[str, Any]
) -> list[tuple[int, TokenizedDocument]]:
    """Documents from the front until their tokens reach the cap."""
    kept: list[tuple[int, TokenizedDocument]] = []
    tokens = taken = 0
    while taken < len(numbered) and tokens < max_tokens:
        batch = _first_characters(numbered[taken:], (max_tokens - tokens) * USUAL_CHARACTERS_PER_TOKEN)
        for (place, _), encoded in zip(batch, encode([document for _, document in batch]), strict=True):
            if tokens >= max_tokens:
                break
            taken += 1
            if len(encoded.ids):
                kept.append((place, encoded))
                tokens += len(encoded.ids)
            else:
                count["dropped"] += 1
    count["truncated"] |= taken < len(numbered)
    return kept


def _first_characters(numbered: list[tuple[int, Document]], characters: int) -> list[tuple[int, Document]]:
    """As many from the front as hold `characters`, at least one and at most a batch."""
    batch: list[tuple[int, Document]] = []
    for pair in numbered[:BATCH_DOCUMENTS]:
        batch.append(pair)
        characters -= len(pair[1].text)
        if characters <= 0:
            break
    return batch


def _shuffled(encoded: list[TokenizedDocument], seed: int | None) -> list[TokenizedDocument]:
    if seed is None:
        return encoded
    import numpy as np

    return [encoded[i] for i in np.random.default_rng(seed).permutation(len(encoded))]
