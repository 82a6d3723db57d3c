"""Control tokens that a text spells out, such as `<|endoftext|>`: characters, unless the recipe asks to parse them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.source import Corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
