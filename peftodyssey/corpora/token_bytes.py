"""How many bytes of its document each token stands for, so that bytes add up exactly. Called by corpora.index."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def token_bytes(text: str, ends: np.ndarray) -> np.ndarray:
    """UTF-8 bytes of each token (int32 [tokens]), from the character offsets `ends` at which the tokens end.

    A token gets the bytes between the furthest end before it and its own end: characters that no token covers go to
    the token after them, those after the last token to the last. Where several tokens share a character, the first
    gets all of its bytes and the others 0. The sum is `len(text.encode())` for every text that has a token.
    """
    import numpy as np

    if not len(ends):
        return np.zeros(0, dtype=np.int32)
    position = byte_positions(text)
    border = position[np.clip(np.maximum.accumulate(ends), 0, len(text))]
    border[-1] = position[-1]
    return np.diff(border, prepend=0).astype(np.int32)


def byte_positions(text: str) -> np.ndarray:
    """int64 [characters + 1]: the UTF-8 byte at which each character begins; the last is the length in bytes."""
    import numpy as np

    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate([[0], np.cumsum(width)])
