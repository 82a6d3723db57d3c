"""Plain text without document marks, cut into pieces that stand in for documents. Called by corpora.rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

LEAST_CHARACTERS = 2_000  # a piece ends at the first blank line after these
MOST_CHARACTERS = 8_000  # about 2k tokens: without a blank line it ends at the first line end after these


def pieces(lines: Iterable[str]) -> Iterator[str]:
    """Pieces of a text that end at paragraph borders; together they are the text, character for character."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= MOST_CHARACTERS or (size >= LEAST_CHARACTERS and not line.strip()):
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def blocks_of_rows(rows: Iterable[str]) -> Iterator[str]:
    """Rows joined by newlines and cut after about 2k tokens; together they are `"\\n".join(rows)`."""
    held: list[str] = []
    size = 0
    for row in rows:
        if size >= MOST_CHARACTERS:
            yield "\n".join(held) + "\n"
            held, size = [], 0
        held.append(row)
        size += len(row) + 1
    if held:
        yield "\n".join(held)
