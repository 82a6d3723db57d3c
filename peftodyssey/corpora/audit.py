"""What to know of a tokenizer before training with it, and documents as it sees them. Called by `check`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

from peftodyssey.corpora import newlines
from peftodyssey.corpora.documents import documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from peftodyssey.corpora.source import Corpus

PROBE = "A line.\n\n  Two  spaces,\ttab; café 世界 🎉"


class Framed(Protocol):
    """What of a tokenizer is looked at; `models.tokenizer.TextTokenizer` has it."""

    @property
    def backend(self) -> Tokenizer: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def pad(self) -> int | None: ...


def audit(tokenizer: Framed) -> list[str]:
    """Warnings in words; none where nothing about the tokenizer can surprise."""
    backend = tokenizer.backend
    found = []
    if tokenizer.bos is None and tokenizer.eos is None:
        found.append("the tokenizer has neither bos nor eos: documents are not marked off, first tokens cannot be scored")
    elif tokenizer.eos is None:
        found.append("the tokenizer has no eos: an adapted model does not learn where documents end")
    elif tokenizer.bos is None:
        found.append("the tokenizer has no bos: eos stands before the first token of a document")
    if tokenizer.pad is not None and tokenizer.pad == tokenizer.eos != tokenizer.bos:
        found.append("pad is eos: here no eos is masked, but a trainer that masks padding would not train it")
    framed, plain = (backend.encode("a", add_special_tokens=special).ids for special in (True, False))
    if len(framed) > len(plain) and tokenizer.bos is not None and framed[0] == tokenizer.bos:
        found.append("the tokenizer adds bos by itself: texts that hold it already would get two; here it is added once")
    back = backend.decode(backend.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if back.strip() != PROBE.strip():
        found.append("the tokenizer changes text (decoding gives other characters back): bytes are counted on the original")
    if "\n" not in back:
        found.append("the tokenizer drops line breaks: newline policies make no difference")
    return found


def preview(
    corpus: Corpus, tokenizer: Framed, count: int, objective: str = "text", split: str = "train"
) -> list[list[tuple[str, bool]]]:
    """The first `count` documents of a split, each as (text of one token, whether it is trained), frame included.

    The pieces of a document without its frame are its text, character for character.
    """
    policy = newlines.policy_of(corpus.point.newline, split)
    shown = []
    for document in islice(documents(corpus, split), count):
        prompt = newlines.apply(document.text[: document.prompt_chars], policy)
        text = prompt + newlines.apply(document.text[document.prompt_chars :], policy)
        shown.append(_framed(tokenizer, text, len(prompt) if objective == "sft" else 0))
    return shown


def _framed(tokenizer: Framed, text: str, prompt_chars: int) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    reached = 0
    for _, end in tokenizer.backend.encode(text, add_special_tokens=False).offsets:
        pieces.append((text[reached:end], reached >= prompt_chars))
        reached = max(reached, end)
    if pieces and reached < len(text):
        pieces[-1] = (pieces[-1][0] + text[reached:], pieces[-1][1])
    front = [(_name(tokenizer, tokenizer.bos), False)] if tokenizer.bos is not None else []
    back = [(_name(tokenizer, tokenizer.eos), True)] if tokenizer.eos is not None else []
    return [*front, *pieces, *back]


def _name(tokenizer: Framed, token: int) -> str:
    return tokenizer.backend.id_to_token(token) or f"<{token}>"
