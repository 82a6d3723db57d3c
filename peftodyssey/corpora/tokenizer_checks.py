"""Warnings about a tokenizer before training with it, and documents as the tokenizer sees them."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np

from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.control_tokens import encode_documents
from peftodyssey.corpora.documents import Document, documents
from peftodyssey.corpora.index import trained_tokens
from peftodyssey.corpora.newlines import policy_of, with_newlines
from peftodyssey.corpora.source import Corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SUMMARISED_EXAMPLES = 200  # examples from which `check` computes how much is trained
CHAT_MARKERS = re.compile(
    r"im_start|im_end|header_id|start_of_turn|end_of_turn|turn_end|\bINST\b|<\|?(user|assistant|system|human|bot|role)\b"
    r"|eot_id|end_of_msg|start_of_role",
    re.IGNORECASE,
)
SAMPLE_TEXT = "A line.\n\n  Two  spaces,\ttab; café 世界 🎉"


class SpecialTokenIds(Protocol):
    """The part of a tokenizer that is checked; `models.tokenizer.TextTokenizer` has it."""

    @property
    def backend(self) -> Tokenizer: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def pad_id(self) -> int | None: ...


def audit(tokenizer: SpecialTokenIds) -> list[str]:
    """Warnings as sentences; none where nothing about the tokenizer is unusual."""
    backend, bos, eos = tokenizer.backend, tokenizer.bos_id, tokenizer.eos_id
    with_special, plain = (backend.encode("a", add_special_tokens=special).ids for special in (True, False))
    decoded = backend.decode(backend.encode(SAMPLE_TEXT, add_special_tokens=False).ids, skip_special_tokens=False)
    marker = chat_marker(tokenizer)
    warnings = {
        "the tokenizer has neither bos nor eos: no token separates documents, first tokens cannot be scored": (
            bos is None and eos is None
        ),
        "the tokenizer has no eos: an adapted model does not learn where documents end": (
            bos is not None and eos is None
        ),
        "the tokenizer has no bos: eos is put before the first token of a document": bos is None and eos is not None,
        f"the token put before a text, {marker}, is a chat marker and never stood there in training: first tokens get "
        "losses worse than guessing; set `score: {first_token: skip}`": bool(marker),
        "pad is eos: no eos is masked here, but a trainer that masks padding would not train it": (
            tokenizer.pad_id is not None and tokenizer.pad_id == eos != bos
        ),
        "the tokenizer adds bos itself: it would stand twice where a text begins with it; here it is added once": (
            len(with_special) > len(plain) and bos is not None and with_special[0] == bos
        ),
        "the tokenizer changes text (decoding returns other characters): bytes are counted on the original": (
            decoded.strip() != SAMPLE_TEXT.strip()
        ),
        "the tokenizer drops line breaks: newline policies make no difference": "\n" not in decoded,
    }
    return [warning for warning, applies in warnings.items() if applies]


def chat_marker(tokenizer: SpecialTokenIds) -> str | None:
    """The token that is put before a text (bos, else eos) where it marks turns of a chat; else None."""
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    name = None if start is None else tokenizer.backend.id_to_token(start)
    return name if name and CHAT_MARKERS.search(name) else None


def preview(
    corpus: Corpus,
    tokenizer: SpecialTokenIds,
    count: int,
    objective: str = "text",
    split: str = "train",
    chat: Chat | None = None,
) -> list[list[tuple[str, bool]]]:
    """The first `count` documents of a split, each as (text of one token, whether it is trained), bos and eos included.

    The pieces of a document without bos and eos are its text, character for character. A conversation has only the
    special tokens that its template writes.
    """
    policy, is_chat = policy_of(corpus.spec.newline, split), corpus.row_schema.is_chat
    first = islice(documents(corpus, split, chat), count)
    shown = [with_newlines(document, policy) for document in first]
    encoded = encode_documents(tokenizer.backend, shown, is_chat or corpus.spec.special_tokens == "parse")
    return [
        _pieces(tokenizer, document, offsets, objective, not is_chat)
        for document, (_, offsets) in zip(shown, encoded, strict=True)
    ]


def answers(corpus: Corpus, tokenizer: SpecialTokenIds, seq_len: int, too_long: str, chat: Chat | None = None) -> str:
    """One sentence on the first training examples under `objective: sft`: trained share, end of answers, lengths."""
    shown = preview(corpus, tokenizer, SUMMARISED_EXAMPLES, "sft", chat=chat)
    if not shown:
        return f"{corpus.name}: no training examples"
    lengths = [len(pieces) - 1 for pieces in shown]
    share = sum(trained for pieces in shown for _, trained in pieces) / sum(map(len, shown))
    if corpus.row_schema.is_chat:
        end = "answers end as the chat template writes them"
        if chat is not None and chat.start_added:
            end += f"; the template writes no {chat.special['bos_token']}: it is put before each conversation once"
    elif tokenizer.eos_id is None:
        end = "no end-of-text token is known"
    else:
        end = f"{_name(tokenizer, tokenizer.eos_id)} is added after every answer"
    longer = sum(length > seq_len for length in lengths)
    fits = f"{longer:,} are longer than" if longer else "all fit"
    handling = f" (too_long: {too_long})" if longer else ""
    return (
        f"{corpus.name}: {share:.0%} of the tokens of {len(shown):,} examples are trained; {end}; "
        f"the longest has {max(lengths):,} tokens, {fits} train.seq_len, {seq_len:,}{handling}"
    )


def _pieces(
    tokenizer: SpecialTokenIds,
    document: Document,
    spans: list[tuple[int, int]],
    objective: str,
    add_special: bool,
) -> list[tuple[str, bool]]:
    text = document.text
    offsets = np.array(spans, dtype=np.int32).reshape(-1, 2)
    trained = np.ones(len(offsets), dtype=bool)
    if objective == "sft":
        trained = trained_tokens(document, offsets[:, 0], offsets[:, 1])
    pieces: list[tuple[str, bool]] = []
    reached = 0
    for end, is_trained in zip(offsets[:, 1].tolist(), trained.tolist(), strict=True):
        pieces.append((text[reached:end], is_trained))
        reached = max(reached, end)
    if pieces and reached < len(text):
        pieces[-1] = (pieces[-1][0] + text[reached:], pieces[-1][1])
    bos, eos = (tokenizer.bos_id, tokenizer.eos_id) if add_special else (None, None)
    front = [] if bos is None else [(_name(tokenizer, bos), False)]
    back = [] if eos is None else [(_name(tokenizer, eos), True)]
    return [*front, *pieces, *back]


def _name(tokenizer: SpecialTokenIds, token: int) -> str:
    return tokenizer.backend.id_to_token(token) or f"<{token}>"
