"""The newline policy: what becomes of line breaks before a text is tokenised.

It is a factor of its own: a model adapted to text without line breaks and scored on text with them seems to have
degraded, although only its newlines cost more.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import accumulate, pairwise

from peftodyssey.corpora.documents import Document


def policy_of(newline: str, split: str) -> str:
    """What `newline` means for one split: `mismatch` strips the train split and keeps the scored ones."""
    if newline == "mismatch":
        return "strip" if split == "train" else "keep"
    return newline


def apply(text: str, policy: str) -> str:
    """`text` under `keep`, `strip` (line breaks removed, nothing in their place) or `collapse` (runs become one)."""
    if policy == "keep":
        return text
    assert policy in ("strip", "collapse"), f"not a policy of one split: {policy}"
    return re.sub(r"[\r\n]+", "" if policy == "strip" else "\n", text)


def with_newlines(document: Document, policy: str) -> Document:
    """The document under the newline policy of one split; prompt and answers keep their borders."""
    if policy == "keep":
        return document
    spans = (*document.answers, *document.spelt)
    borders = sorted({0, document.prompt_chars, len(document.text), *(c for span in spans for c in span)})
    pieces = [apply(document.text[begin:end], policy) for begin, end in pairwise(borders)]
    moved = dict(zip(borders, accumulate(map(len, pieces), initial=0), strict=True))
    answers, spelt = (
        tuple((moved[start], moved[end]) for start, end in of_kind) for of_kind in (document.answers, document.spelt)
    )
    return replace(
        document, text="".join(pieces), prompt_chars=moved[document.prompt_chars], answers=answers, spelt=spelt
    )
