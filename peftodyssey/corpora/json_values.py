"""JSON lines, an array of objects, or objects over several lines, with one of them in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from peftodyssey.corpora.text_stream import MAX_LINE_BYTES, lines, peek, pieces, too_long
from peftodyssey.errors import CorpusError

BETWEEN = re.compile(r"[\s,]*")  # what stands between two values


def json_rows(stream: IO[bytes], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of JSON lines, of an array of objects, or of objects over several lines.

    The place is file:line of JSON lines, else file:number of the object. Raises CorpusError for what is no object.
    """
    head = peek(stream, where)
    over_lines = head[:1] == b"[" or (head.partition(b"\n")[0].rstrip() == b"{" and b"\n" in head)
    for place, row in _values(stream, where) if over_lines else _lines(stream, where):
        if not isinstance(row, dict):
            raise CorpusError(f"{place} holds a {type(row).__name__}, not an object", "write one JSON object per row")
        yield place, row


def _lines(stream: IO[bytes], where: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines(stream, where), start=1):
        if line.strip():
            place = f"{where}:{number}"
            with _mistakes(place):
                row = json.loads(line)
            yield place, row


def _values(stream: IO[bytes], where: str) -> Iterator[tuple[str, Any]]:
    decoder, source = json.JSONDecoder(), pieces(stream, where)
    text, number, wanted, in_array = "", 0, 0, False
    while True:
        piece = next(source, None)
        text += piece or ""
        if piece is not None and len(text) < wanted:
            continue  # a value that goes on is tried again once twice as much of it is there
        position = 0
        while (start := _after_blanks(text, position)) < len(text):
            place = f"{where}:{number + 1}"
            if text[start] == "[" and number == 0 and not in_array:
                position, in_array = start + 1, True
                continue
            if text[start] == "]" and in_array:
                _refuse_more(text[start + 1 :], source, where)
                return
            try:
                value, position = decoder.raw_decode(text, start)
            except ValueError:
                if len(text) - start > MAX_LINE_BYTES:
                    raise too_long(place) from None
                if piece is None:
                    with _mistakes(place):
                        decoder.raw_decode(text[start:])
                wanted, position = 2 * (len(text) - start), start
                break
            except RecursionError as error:
                raise _too_deep(place) from error
            if position - start > MAX_LINE_BYTES:
                raise too_long(place)
            number += 1
            yield place, value
        else:
            position = start
        text = text[position:]
        if piece is None:
            if in_array:
                raise CorpusError(f"{where} ends before its array does", "write `]` behind the last object")
            return


def _after_blanks(text: str, position: int) -> int:
    found = BETWEEN.match(text, position)
    return found.end() if found else position


def _refuse_more(text: str, source: Iterator[str], where: str) -> None:
    if text.strip() or any(piece.strip() for piece in source):
        raise CorpusError(f"{where} goes on after its array", "write one array, or one JSON object per line")


@contextmanager
def _mistakes(place: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CorpusError(f"{place} is not JSON: {error}", "write one JSON object per line, or an array") from error
    except RecursionError as error:
        raise _too_deep(place) from error


def _too_deep(place: str) -> CorpusError:
    return CorpusError(f"{place} is nested too deeply", "write one flat JSON object per line")
