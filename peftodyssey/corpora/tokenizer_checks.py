"""What to know of a tokenizer before training with it, and documents as it sees them. Called by `check`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

from peftodyssey.corpora import newlines
from peftodyssey.corpora.documents import Document, documents, with_newlines
from peftodyssey.corpora.index import trained_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from peftodyssey.corpora.chat import Chat
    from peftodyssey.corpora.source import Corpus

LOOKED_AT = 200  # examples of which `check` says how much is learnt
PROBE = "A line.\n\n  Two  spaces,\ttab; café 世界 🎉"


class SpecialTokenIds(Protocol):
    """What of a tokenizer is looked at; `models.tokenizer.TextTokenizer` has it."""

    @property
    def backend(self) -> Tokenizer: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def pad(self) -> int | None: ...


def audit(tokenizer: SpecialTokenIds) -> list[str]:
    """Warnings in words; none where nothing about the tokenizer can surprise."""
    backend = tokenizer.backend
    found = []
    if tokenizer.bos is None and tokenizer.eos is None:
        found.append(
            "the tokenizer has neither bos nor eos: documents are not marked off, first tokens cannot be scored"
        )
    elif tokenizer.eos is None:
        found.append("the tokenizer has no eos: an adapted model does not learn where documents end")
    elif tokenizer.bos is None:
        found.append("the tokenizer has no bos: eos stands before the first token of a document")
    if tokenizer.pad is not None and tokenizer.pad == tokenizer.eos != tokenizer.bos:
        found.append("pad is eos: here no eos is masked, but a trainer that masks padding would not train it")
    framed, plain = (backend.encode("a", add_special_tokens=special).ids for special in (True, False))
    if len(framed) > len(plain) and tokenizer.bos is not None and framed[0] == tokenizer.bos:
        found.append(
            "the tokenizer adds bos by itself: texts that hold it already would get two; here it is added once"
        )
    back = backend.decode(backend.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if back.strip() != PROBE.strip():
        found.append(
            "the tokenizer changes text (decoding gives other characters back): bytes are counted on the original"
        )
    if "\n" not in back:
        found.append("the tokenizer drops line breaks: newline policies make no difference")
    return found


def preview(
    corpus: Corpus,
    tokenizer: SpecialTokenIds,
    count: int,
    objective: str = "text",
    split: str = "train",
    chat: Chat | None = None,
) -> list[list[tuple[str, bool]]]:
    """The first `count` documents of a split, each as (text of one token, whether it is trained), frame included.

    The pieces of a document without its frame are its text, character for character. A conversation has no frame but
    what its template writes.
    """
    policy = newlines.policy_of(corpus.spec.newline, split)
    found = islice(documents(corpus, split, chat), count)
    framed = None if corpus.row_schema.is_chat else tokenizer
    return [_pieces(tokenizer.backend, with_newlines(document, policy), objective, framed) for document in found]


def answers(corpus: Corpus, tokenizer: SpecialTokenIds, seq_len: int, too_long: str, chat: Chat | None = None) -> str:
    """What `objective: sft` learns of the first training examples, in one sentence: how much, how it ends, what is too
    long.
    """
    shown = preview(corpus, tokenizer, LOOKED_AT, "sft", chat=chat)
    if not shown:
        return f"{corpus.name}: no training examples"
    lengths = [len(pieces) - 1 for pieces in shown]
    learnt = sum(trained for pieces in shown for _, trained in pieces) / sum(map(len, shown))
    end = (
        "no end-of-text token is known"
        if tokenizer.eos is None
        else f"{_name(tokenizer, tokenizer.eos)} is added behind every answer"
    )
    if corpus.row_schema.is_chat:
        end = "answers end as the chat template writes them"
    long = sum(length > seq_len for length in lengths)
    fits = (
        f"all fit train.seq_len, {seq_len:,}"
        if not long
        else f"{long:,} are longer than train.seq_len, {seq_len:,} (too_long: {too_long})"
    )
    return f"{corpus.name}: {learnt:.0%} of the tokens of {len(shown):,} examples are learnt; {end}; the longest has {max(lengths):,} tokens, {fits}"


def _pieces(
    backend: Tokenizer, document: Document, objective: str, framed: SpecialTokenIds | None
) -> list[tuple[str, bool]]:
    import numpy as np

    text = document.text
    offsets = np.array(backend.encode(text, add_special_tokens=False).offsets, dtype=np.int32).reshape(-1, 2)
    trained = (
        trained_tokens(document, offsets[:, 0], offsets[:, 1])
        if objective == "sft"
        else np.ones(len(offsets), dtype=bool)
    )
    pieces: list[tuple[str, bool]] = []
    reached = 0
    for end, learnt in zip(offsets[:, 1].tolist(), trained.tolist(), strict=True):
        pieces.append((text[reached:end], learnt))
        reached = max(reached, end)
    if pieces and reached < len(text):
        pieces[-1] = (pieces[-1][0] + text[reached:], pieces[-1][1])
    front = [(_name(framed, framed.bos), False)] if framed and framed.bos is not None else []
    back = [(_name(framed, framed.eos), True)] if framed and framed.eos is not None else []
    return [*front, *pieces, *back]


def _name(tokenizer: SpecialTokenIds, token: int) -> str:
    return tokenizer.backend.id_to_token(token) or f"<{token}>"
