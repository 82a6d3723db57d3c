"""The documents of a corpus, split into train, valid and test, whatever source they are read from."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.constants import SPLITS
from peftodyssey.corpora import hub, local, m2d2
from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.json_values import json_rows
from peftodyssey.corpora.row_schema import document_text
from peftodyssey.corpora.source import Corpus
from peftodyssey.corpora.splits import shares_of, split_of_key
from peftodyssey.corpora.text_stream import lines, open_bytes
from peftodyssey.errors import CorpusError, RowError

# Text without document marks is cut into pieces, which are used as documents.
MIN_PIECE_CHARACTERS = 2_000  # a piece ends at the first blank line after these
MAX_PIECE_CHARACTERS = 8_000  # about 2k tokens: without a blank line it ends at the first line end after these
# Splits of the Hub and of M2D2 may be larger than any disk: no more of one is read (about 50M tokens).
MAX_STREAMED_CHARACTERS = 200_000_000
LIKELY = 3  # documents expected in a split with which it is empty in 5 % of all cases: exp(-3)


@dataclass(frozen=True)
class Document:
    """One document of a corpus. The first `prompt_chars` characters are a prompt: read, but not trained on under sft.

    Of a conversation `answers` are the characters that the assistant wrote, [start, end) each; none means all behind
    the prompt. `spelt` are places where its messages spell a control token, which stay characters.
    """

    id: str
    text: str
    prompt_chars: int = 0
    answers: tuple[tuple[int, int], ...] = ()
    key: str = ""  # sha256 hex of the text with its white space normalised: decides split and choice
    cluster: str = ""  # the file, paper or article that it was cut from; empty: it stands for itself
    spelt: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", text_key(self.text))


def text_key(text: str) -> str:
    """sha256 hex of `text`, runs of white space made one space: the same whatever becomes of its newlines."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def documents(
    corpus: Corpus, split: str, chat: Chat | None = None, left_out: Counter[str] | None = None
) -> Iterator[Document]:
    """The documents of one split (`train`, `valid`, `test`) or of `all`, in source order, read lazily.

    A split that the source has is taken as it is. A split that it lacks is cut out of its train split by the hash of
    the text, in the shares of the recipe, so copies of a text stay together. Documents of white space alone are left
    out. `all` is every split of the source, one after the other. `chat` renders conversations. `left_out` counts the
    rows of the source that are left out, by reason. Raises CorpusError where there is no such split.
    """
    assert split in (*SPLITS, "all"), split
    if split == "all":
        for name in corpus.source_splits:
            yield from read_split(corpus, name, chat, left_out)
        return
    available = set(corpus.source_splits)
    if split not in available and "train" not in available:
        raise CorpusError(
            f"{corpus.spec.source} has no {split} split: it has {', '.join(sorted(available))}",
            f"name the split to use: split: {{{split}: {min(available)}}}",
        )
    shares = {name: share for name, share in shares_of(corpus.spec.split).items() if name not in available}
    is_whole = split in available and split != "train"
    for document in read_split(corpus, split if split in available else "train", chat, left_out):
        if is_whole or split_of_key(document.key, shares) == split:
            yield document


def check_splits(corpus: Corpus, splits: Iterable[str], chat: Chat | None = None) -> None:
    """Raises CorpusError where some of `splits` would hold no document; reads to the first document of each.

    Either their files have no text, or too few documents stand in train for one to be cut out of it for each.
    """
    empty = [split for split in splits if next(documents(corpus, split, chat), None) is None]
    if not empty:
        return
    source = empty[0] if empty[0] in corpus.source_splits else "train"
    count = sum(1 for _ in read_split(corpus, source, chat))
    if count == 0:
        raise CorpusError(f"{corpus.name}: the {source} split holds no text", "put text into its files")
    cut = {name: share for name, share in shares_of(corpus.spec.split).items() if name not in corpus.source_splits}
    cut["train"] = 1 - sum(cut.values())
    listed = " and ".join(f"{split} ({cut[split]:.0%})" for split in empty)
    smallest = min(cut[split] for split in empty)
    enough = f"give it about {math.ceil(LIKELY / smallest):,} or more, " if smallest else ""
    raise CorpusError(
        f"{corpus.name}: {listed} would be empty: there {'are' if count != 1 else 'is'} {count:,} "
        f"document{'s' * (count != 1)}, each drawn into one split by the hash of its text (a document is a row, or a "
        "piece of some 2,000 characters of a text file)",
        f"{enough}set larger shares (split: {{valid: 10%, test: 20%}}), or name files train, valid and test",
    )


def read_split(
    corpus: Corpus, split: str, chat: Chat | None = None, left_out: Counter[str] | None = None
) -> Iterator[Document]:
    """The documents of one split of the source that have text, in its order. Raises CorpusError.

    `left_out` counts the rows without: null, empty, and with `bad_rows: drop` those that cannot be used, by reason.
    """
    entries, spec = corpus.source_splits[split], corpus.spec
    counts: Counter[str] = Counter() if left_out is None else left_out
    if corpus.kind == "bundled":
        stream = assets.open_corpus(spec.source.partition("/")[2], entries[0])
        rows = json_rows(stream, f"{spec.source}:{entries[0]}")
        found: Iterable[Document] = (
            replace(d, cluster=source_file(d.id)) for d in _from_rows(rows, corpus, chat, counts)
        )
    elif corpus.kind == "hub":
        assert corpus.commit is not None, "resolve sets the commit"
        rows = hub.rows(spec, corpus.commit, entries[0], corpus.row_schema.columns)
        found = _capped(_from_rows(rows, corpus, chat, counts))
    elif corpus.kind == "m2d2":
        config, copy = entries
        pieces = join_lines(m2d2.rows(config, split, copy, spec.revision))
        found = _capped(Document(f"{config}/{split}:{number}", text) for number, text in enumerate(pieces))
    else:
        found = (d for path in entries for d in _from_file(path, corpus, len(entries) == 1, chat, counts))
    for document in found:
        if document.text.strip():
            yield document
        else:
            counts["empty"] += 1


def source_file(document_id: str) -> str:
    """The file that a bundled document was cut from, by its id (`origin:path#piece`, `origin:path.py:function`)."""
    if "#" in document_id:
        return document_id.rpartition("#")[0]
    before, _, function = document_id.rpartition(".py:")
    return f"{before}.py" if function and before else ""


def cut_at_paragraphs(text_lines: Iterable[str]) -> Iterator[str]:
    """Pieces of a text that end at paragraph borders; together they are the text, character for character.

    A line that is longer than a piece is cut behind a space.
    """
    pending: list[str] = []
    size = 0
    for part in (part for line in text_lines for part in cut_at_spaces(line)):
        pending.append(part)
        size += len(part)
        if size >= MAX_PIECE_CHARACTERS or (size >= MIN_PIECE_CHARACTERS and not part.strip()):
            yield "".join(pending)
            pending, size = [], 0
    if pending:
        yield "".join(pending)


def cut_at_spaces(line: str) -> Iterator[str]:
    """A line in parts of at most MAX_PIECE_CHARACTERS that end behind a space, where there is one."""
    start = 0
    while len(line) - start > MAX_PIECE_CHARACTERS:
        end = line.rfind(" ", start, start + MAX_PIECE_CHARACTERS) + 1 or start + MAX_PIECE_CHARACTERS
        yield line[start:end]
        start = end
    yield line[start:]


def join_lines(rows: Iterable[str]) -> Iterator[str]:
    """Rows joined by newlines and cut after about 2k tokens; together they are `"\\n".join(rows)`."""
    pending: list[str] = []
    size = 0
    for row in rows:
        if size >= MAX_PIECE_CHARACTERS:
            yield "\n".join(pending) + "\n"
            pending, size = [], 0
        pending.append(row)
        size += len(row) + 1
    if pending:
        yield "\n".join(pending)


def _from_file(
    path: Path, corpus: Corpus, is_only_file: bool, chat: Chat | None, left_out: Counter[str]
) -> Iterator[Document]:
    """Documents of a file of rows; a text file is one document, or is cut into pieces where it is the only file."""
    if not local.is_plain(path):
        yield from _from_rows(local.rows(path, corpus.row_schema.columns), corpus, chat, left_out)
    elif is_only_file:
        for number, piece in enumerate(cut_at_paragraphs(lines(open_bytes(path), str(path)))):
            yield Document(f"{path.name}:{number}", piece)
    else:
        yield Document(path.name, "".join(lines(open_bytes(path), str(path))))


def _from_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], corpus: Corpus, chat: Chat | None, left_out: Counter[str]
) -> Iterator[Document]:
    schema = corpus.row_schema
    for place, row in rows:
        if schema.turns is None and schema.field is not None and row.get(schema.field, "") is None:
            left_out["null"] += 1
            continue
        try:
            (text, answers, spelt), prompt_chars = document_text(place, row, schema, chat)
            if not text.isascii():
                _refuse_surrogates(place, text)
        except RowError as error:
            if corpus.spec.bad_rows != "drop":
                raise
            left_out[error.reason] += 1
            continue
        name, cluster = (str(row[key]) if isinstance(row.get(key), str | int) else "" for key in ("id", "cluster"))
        yield Document(name or Path(place).name, text, prompt_chars, answers, cluster=cluster, spelt=spelt)


def _refuse_surrogates(place: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            place,
            f"half of a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start:,}",
            "write the whole character, or leave such rows out: `bad_rows: drop`",
        ) from error


def _capped(stream: Iterable[Document]) -> Iterator[Document]:
    characters = 0
    for document in stream:
        yield document
        characters += len(document.text)
        if characters >= MAX_STREAMED_CHARACTERS:
            return
