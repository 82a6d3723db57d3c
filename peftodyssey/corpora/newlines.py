"""The newline policy: what becomes of line breaks before a text is tokenised. Called by corpora.index and plans.

It is a factor of its own: a model adapted to text without line breaks and scored on text with them looks as if it had
lost ability, although only its newlines are expensive.
"""

from __future__ import annotations

import re

POLICIES = ("keep", "strip", "collapse", "mismatch")


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
