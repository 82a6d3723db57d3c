"""One part of a corpus as documents, whatever its source. Called by corpora.documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora import hub, local, m2d2, plain_text
from peftodyssey.corpora.chat import Chat, Spans, render_messages
from peftodyssey.corpora.documents import Document
from peftodyssey.corpora.readers import format_of, json_rows, lines, open_bytes
from peftodyssey.corpora.row_schema import RowSchema
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    from peftodyssey.corpora.source import Corpus

# Of a split of the Hub or of M2D2, which may be larger than any disk, this much is looked at (about 50M tokens).
CONSIDERED_CHARACTERS = 200_000_000


def read_split(corpus: Corpus, part: str, chat: Chat | None = None) -> Iterator[Document]:
    """The documents of one part that the source itself keeps apart, in its order. Raises CorpusError."""
    entries = corpus.source_splits[part]
    if corpus.kind == "bundled":
        from peftodyssey import assets

        name = corpus.spec.source.partition("/")[2]
        rows = json_rows(assets.open_corpus(name, entries[0]), f"{corpus.spec.source}:{entries[0]}")
        return _documents(rows, corpus.row_schema, chat)
    if corpus.kind == "hub":
        assert corpus.commit is not None, "resolve asks for the commit"
        rows = hub.rows(corpus.spec, corpus.commit, entries[0], corpus.row_schema.columns)
        return _at_most(_documents(rows, corpus.row_schema, chat))
    if corpus.kind == "m2d2":
        config, copy = entries
        blocks = plain_text.blocks_of_rows(m2d2.rows(config, part, copy, corpus.spec.revision))
        return _at_most(Document(f"{config}/{part}:{n}", text) for n, text in enumerate(blocks))
    return (document for path in entries for document in _file(path, corpus.row_schema, len(entries) == 1, chat))


def _file(path: Path, layout: RowSchema, alone: bool, chat: Chat | None) -> Iterator[Document]:
    """A file of rows; a text file that is one document of a folder, or that is cut into pieces because it is alone."""
    if format_of(path) != "txt":
        columns = layout.columns if format_of(path) == "parquet" else None
        yield from _documents(local.rows(path, columns), layout, chat)
    elif alone:
        for number, piece in enumerate(plain_text.pieces(lines(open_bytes(path), str(path)))):
            yield Document(f"{path.name}:{number}", piece)
    else:
        yield Document(path.name, "".join(lines(open_bytes(path), str(path))))


def _documents(rows: Iterable[tuple[str, dict[str, Any]]], layout: RowSchema, chat: Chat | None) -> Iterator[Document]:
    for place, row in rows:
        text, prompt_chars, answers = _text(place, row, layout, chat)
        if not text.isascii():
            _refuse_surrogates(place, text)
        name = row.get("id")
        yield Document(str(name) if isinstance(name, (str, int)) else Path(place).name, text, prompt_chars, answers)


def _text(place: str, row: dict[str, Any], layout: RowSchema, chat: Chat | None) -> tuple[str, int, Spans]:
    """(text, prompt characters, spans of answers) of one row; a field that is null is an empty text."""
    if layout.turns == "messages":
        return _conversation(*render_messages(_value(place, row, "messages"), chat, place))
    if layout.turns == "dialogue":
        prompt, answer = _value(place, row, "prompt"), _value(place, row, "completion")
        text, spans = render_messages([*_turns(place, prompt), *_turns(place, answer)], chat, place)
        return _conversation(text, spans[-sum(turn.get("role") == "assistant" for turn in answer) :])
    if layout.turns == "prompt":
        prompt, completion = _string(place, row, "prompt"), _string(place, row, "completion")
        if not completion.strip():
            raise CorpusError(
                f"{place}: the completion is empty", "fill it, or remove the row: there is nothing to learn"
            )
        return prompt + completion, len(prompt), ()
    assert layout.field is not None, "infer_schema names a field or turns"
    return _string(place, row, layout.field), 0, ()


def _conversation(text: str, spans: Spans) -> tuple[str, int, Spans]:
    return text, spans[0][0], spans


def _turns(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CorpusError(
            f"{place}: prompt and completion must both be texts or both be lists of messages", "mend the row"
        )
    return value


def _value(place: str, row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise CorpusError(
            f"{place}: no field {name!r}: the fields are {', '.join(row) or 'none'}", "mend or remove the row"
        )
    return row[name]


def _string(place: str, row: dict[str, Any], name: str) -> str:
    value = _value(place, row, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"{place}: {name} is {type(value).__name__}, not text", "name the text with `field:`")
    return value


def _refuse_surrogates(place: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place}: half of a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start:,} is no text",
            "write the character whole, or remove the row",
        ) from error


def _at_most(documents: Iterable[Document]) -> Iterator[Document]:
    seen = 0
    for document in documents:
        yield document
        seen += len(document.text)
        if seen >= CONSIDERED_CHARACTERS:
            return
