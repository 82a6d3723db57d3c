"""A token's text so that its blanks are seen, on the page and in figures."""

from __future__ import annotations

SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """A token's text with its blanks shown as signs; a dash where it stands for no character of its own."""
    return "".join(SIGNS.get(character, character) for character in text) or "(part of a character)"
