"""The documents of a corpus, split into train, valid and test. Called by jobs and by `check --show`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from peftodyssey.corpora import newlines
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    from peftodyssey.corpora.chat import Chat
    from peftodyssey.corpora.source import Corpus

SPLITS = ("train", "valid", "test")
DEFAULT_SHARES = {"valid": 0.05, "test": 0.10}


@dataclass(frozen=True)
class Document:
    """One document of a corpus. The first `prompt_chars` characters are a prompt: read, but not trained on under sft.

    Of a conversation `answers` are the characters that the assistant wrote, [start, end) each; none means all behind
    the prompt.
    """

    id: str
    text: str
    prompt_chars: int = 0
    answers: tuple[tuple[int, int], ...] = ()
    key: str = ""  # sha256 hex of the text with its white space normalised: decides split and choice

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", text_key(self.text))


def text_key(text: str) -> str:
    """sha256 hex of `text`, runs of white space made one space: the same whatever becomes of its newlines."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def documents(corpus: Corpus, split: str, chat: Chat | None = None) -> Iterator[Document]:
    """The documents of one split (`train`, `valid`, `test`) or of `all`, in source order, read as they are asked for.

    A split that the source has is taken as it is. One that it lacks is cut out of its train part by the hash of the
    text, in the shares of the recipe, so copies of a text fall together. Documents of white space alone are left out.
    `all` is every part, one after the other. `chat` renders conversations.
    Raises CorpusError where there is no such split.
    """
    from peftodyssey.corpora.rows import read_split

    assert split in (*SPLITS, "all"), split
    if split == "all":
        for part in corpus.source_splits:
            yield from (document for document in read_split(corpus, part, chat) if document.text.strip())
        return
    own = set(corpus.source_splits)
    if split not in own and "train" not in own:
        raise CorpusError(
            f"{corpus.spec.source} has no {split} split: it has {', '.join(sorted(own))}",
            f"name the part to use: split: {{{split}: {sorted(own)[0]}}}",
        )
    shares = {name: share for name, share in shares_of(corpus.spec.split).items() if name not in own}
    for document in read_split(corpus, split if split in own else "train", chat):
        if not document.text.strip():
            continue
        if (split in own and split != "train") or assigned(document.key, shares) == split:
            yield document


def with_newlines(document: Document, policy: str) -> Document:
    """The document under a newline policy of one split, what is prompt and what is answer kept apart."""
    if policy == "keep":
        return document
    borders = sorted({0, document.prompt_chars, len(document.text), *(c for span in document.answers for c in span)})
    pieces = [newlines.apply(document.text[a:b], policy) for a, b in pairwise(borders)]
    place = dict(zip(borders, accumulate(map(len, pieces), initial=0), strict=True))
    answers = tuple((place[start], place[end]) for start, end in document.answers)
    return Document(document.id, "".join(pieces), place[document.prompt_chars], answers, document.key)


def assigned(key: str, shares: dict[str, float]) -> str:
    """The split of a document by its hash: below the share of test, then valid, else train."""
    place = int(key[:16], 16) / 2**64
    for name in ("test", "valid"):
        place -= shares.get(name, 0.0)
        if place < 0:
            return name
    return "train"


def shares_of(split: dict[str, object]) -> dict[str, float]:
    """The shares of valid and test, defaults filled in. Raises CorpusError where nothing is left for training."""
    shares = DEFAULT_SHARES | {name: float(value) for name, value in split.items() if isinstance(value, (int, float))}
    shares.pop("train", None)
    if sum(shares.values()) >= 1 or min(shares.values()) < 0:
        raise CorpusError(f"split shares {shares} leave nothing to train on", "let them add up to less than 100%")
    return shares
