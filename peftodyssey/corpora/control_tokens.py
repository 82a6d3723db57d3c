"""Control tokens that a text spells out, such as `<|endoftext|>`: characters, unless the recipe asks to parse them."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from peftodyssey.corpora.documents import Document, documents
from peftodyssey.corpora.source import Corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = tuple[list[int], list[tuple[int, int]]]
COUNTED_DOCUMENTS = 300  # of a training split, in which `check` counts the places


@contextlib.contextmanager
def control_tokens_parsed(backend: Tokenizer, parsed: bool) -> Iterator[None]:
    """In the body `backend` reads control tokens in a text as such (`parsed`), or as the characters that spell them."""
    before = backend.encode_special_tokens
    backend.encode_special_tokens = not parsed
    try:
        yield
    finally:
        backend.encode_special_tokens = before


def encode_documents(backend: Tokenizer, batch: Sequence[Document], parsed: bool) -> list[Tokens]:
    """(ids, character offsets) of each document without bos and eos; control tokens are `parsed`, or characters.

    Where a message of a conversation spells one, it is characters though those of the template are parsed.
    """
    with control_tokens_parsed(backend, parsed):
        encodings = backend.encode_batch([document.text for document in batch], add_special_tokens=False)
    return [
        _with_characters(backend, document, encoding.ids, encoding.offsets)
        for document, encoding in zip(batch, encodings, strict=True)
    ]


def _with_characters(backend: Tokenizer, document: Document, ids: list[int], offsets: list[tuple[int, int]]) -> Tokens:
    """The tokens with those at the places `document.spelt` replaced by tokens of the characters there."""
    special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    spelt = deque(document.spelt)
    if not spelt:
        return ids, offsets
    new_ids: list[int] = []
    new_offsets: list[tuple[int, int]] = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        while spelt and spelt[0][1] <= start:
            spelt.popleft()
        if token in special and spelt and spelt[0][0] < end:
            more_ids, more_offsets = _characters(backend, document.text[start:end])
            new_ids += more_ids
            new_offsets += [(start + begin, start + stop) for begin, stop in more_offsets]
        else:
            new_ids.append(token)
            new_offsets.append((start, end))
    return new_ids, new_offsets


def _characters(backend: Tokenizer, text: str) -> Tokens:
    """Tokens of `text` as it stands within a text: some tokenizers put a space before the first word of all."""
    with control_tokens_parsed(backend, False):
        encoding = backend.encode(f"\n{text}", add_special_tokens=False)
        kept = [number for number, (start, _) in enumerate(encoding.offsets) if start >= 1]
        if not kept or encoding.offsets[kept[0]][0] > 1:  # a token spans the line break and the text
            encoding = backend.encode(text, add_special_tokens=False)
            return encoding.ids, encoding.offsets
    return [encoding.ids[n] for n in kept], [(encoding.offsets[n][0] - 1, encoding.offsets[n][1] - 1) for n in kept]


def control_token_pattern(backend: Tokenizer) -> re.Pattern[str] | None:
    """What matches the text of any control token; None where the tokenizer has none."""
    words = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True)))) if words else None


def count_places(pattern: re.Pattern[str] | None, texts: Iterable[str]) -> int:
    """The places in `texts` that spell a control token."""
    return 0 if pattern is None else sum(len(pattern.findall(text)) for text in texts)


def control_token_note(corpus: Corpus, backend: Tokenizer) -> str:
    """A sentence about control tokens that the first training documents spell; empty where there are none."""
    pattern = control_token_pattern(backend)
    if pattern is None or corpus.row_schema.is_chat or corpus.spec.source.startswith(("hub:", "m2d2/")):
        return ""
    texts = [document.text for document in islice(documents(corpus, "train"), COUNTED_DOCUMENTS)]
    if not (places := count_places(pattern, texts)):
        return ""
    first = next(match[0] for text in texts if (match := pattern.search(text)))
    if corpus.spec.special_tokens == "parse":
        how = "are read as control tokens"
    else:
        how = "are encoded as text; `special_tokens: parse` reads them as control tokens"
    return f"{corpus.name}: {places:,} places in the first {len(texts):,} documents spell {first} or the like and {how}"
