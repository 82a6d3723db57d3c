"""The token index of a text under one tokenizer: one row per token, in the order of every column of losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from peftodyssey.constants import DOCUMENTS_FILE, INDEX_FILE
from peftodyssey.corpora.choose import BATCH_DOCUMENTS, TokenizedDocument, choose_documents
from peftodyssey.corpora.control_tokens import control_token_pattern, count_places, encode_documents
from peftodyssey.corpora.documents import Document
from peftodyssey.corpora.newlines import with_newlines
from peftodyssey.corpora.token_classes import classify, code_points, effective_spans
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

# Of each of the first documents this many characters are tokenised to estimate the token counts of all.
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 4, 2000
COLUMNS = {
    "document": "int32",
    "position": "int32",
    "token": "int32",
    "start": "int32",
    "end": "int32",
    "bytes": "int32",
    "class": "int8",
    "trained": "bool",
}
DOCUMENT_COLUMNS = {
    "document": "int32",
    "id": "string",
    "sha256": "string",
    "text": "string",
    "tokens": "int32",
    "bytes": "int64",
    "cluster": "string",  # the file, paper or article that it was cut from; else `number:id`, the document itself
}


class HasBackend(Protocol):
    """The part of a tokenizer that is used here; `models.tokenizer.TextTokenizer` has it."""

    @property
    def backend(self) -> Tokenizer: ...


@dataclass(frozen=True)
class Index:
    """One row per token, all arrays in the same order; `starts` marks where documents begin."""

    folder: Path | None  # None for an index in memory, which has no `documents`
    document: np.ndarray  # int32 [rows]
    position: np.ndarray  # int32 [rows], from 0 in each document
    token: np.ndarray  # int32 [rows], ids
    start: np.ndarray  # int32 [rows], character offset in the document
    end: np.ndarray  # int32 [rows]
    bytes: np.ndarray  # int32 [rows]; a document's add up to its UTF-8 length
    token_class: np.ndarray  # int8 [rows], positions in TOKEN_CLASSES
    trained: np.ndarray  # bool [rows], False for the tokens of a prompt
    starts: np.ndarray  # int64 [documents + 1], rows at which documents begin, and the number of rows

    @cached_property
    def documents(self) -> pa.Table:
        """document, id, sha256, text, tokens, bytes, cluster: one row per document, read at first use."""
        import pyarrow.parquet as pq

        assert self.folder is not None, "an index in memory has no documents"
        return pq.read_table(self.folder / DOCUMENTS_FILE)


def build_index(
    documents: Iterable[Document],
    tokenizer: HasBackend,
    folder: Path,
    *,
    max_tokens: int | None = None,
    newline: str = "keep",
    name: str = "the corpus",
    parse_special: bool = False,
) -> dict[str, Any]:
    """Write index.parquet and documents.parquet into `folder`; returns counts: documents, tokens, bytes, truncated,
    dropped, cut (documents longer than `max_tokens`), control_tokens (places that spell one and are characters).

    With `max_tokens`, whole documents are taken in the order of their hash until it is reached (the last may exceed
    it; a longer one is cut at it), so the choice is the same for every recipe; rows keep the order of the source.
    Documents without a token are dropped and counted. `newline` is keep, strip or collapse (`policy_of`). Raises
    CorpusError where fewer than two tokens are left.
    """
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "truncated": False, "dropped": 0, "cut": 0, "control_tokens": 0}
    pattern = None if parse_special else control_token_pattern(tokenizer.backend)
    prepared = (with_newlines(document, newline) for document in documents)

    def tokenize(batch: Sequence[Document]) -> list[TokenizedDocument]:
        texts = [document.text for document in batch]
        counts["control_tokens"] += count_places(pattern, texts) + sum(len(document.spelt) for document in batch)
        encoded = encode_documents(tokenizer.backend, batch, parse_special)
        return [
            TokenizedDocument(document, np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int32).reshape(-1, 2))
            for document, (ids, offsets) in zip(batch, encoded, strict=True)
        ]

    added_tokens = tokenizer.backend.get_added_tokens_decoder().items()
    special = np.array([i for i, token in added_tokens if token.special], dtype=np.int32)
    _write(folder, choose_documents(prepared, tokenize, max_tokens, counts), special, counts)
    if counts["tokens"] < 2:
        raise CorpusError(
            f"{name} gives {counts['tokens']} token{'s' * (counts['tokens'] != 1)} in {counts['documents']} documents:"
            " nothing can be predicted",
            "add text, or give this split a larger share (split: {valid: 10%, test: 20%}) or a file of its own",
        )
    return counts


def estimate_token_counts(
    documents: Iterable[Document], tokenizer: HasBackend, max_tokens: int | None, newline: str
) -> list[int]:
    """Estimated tokens of each document that `build_index` would take: only the first ones are tokenised, the others
    are estimated by their length.
    """
    remaining = iter(with_newlines(document, newline) for document in documents)
    first = list(islice(remaining, SAMPLE_DOCUMENTS))
    samples = [document.text[:SAMPLE_CHARACTERS] for document in first]
    tokens = sum(len(e.ids) for e in tokenizer.backend.encode_batch(samples, add_special_tokens=False))
    characters_per_token = sum(map(len, samples)) / max(tokens, 1)

    def estimate(batch: Sequence[Document]) -> list[TokenizedDocument]:
        return [
            TokenizedDocument(
                d, np.zeros(round(len(d.text) / characters_per_token), np.int32), np.zeros((0, 2), np.int32)
            )
            for d in batch
        ]

    counts = {"dropped": 0, "cut": 0, "truncated": False}
    return [len(d.ids) for d in choose_documents(chain(first, remaining), estimate, max_tokens, counts)]


def read_index(folder: Path) -> Index:
    """The index in `folder`. Raises CorpusError where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / INDEX_FILE)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"cannot read {folder / INDEX_FILE}: {error}", "delete its folder and run the recipe again"
        ) from error
    columns = {name.replace("class", "token_class"): table[name].to_numpy() for name in COLUMNS}
    first = np.flatnonzero(np.diff(columns["document"], prepend=-1))
    return Index(folder, **columns, starts=np.append(first, table.num_rows).astype(np.int64))


def indexed_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(key, text) of the documents of the index in `folder`, a batch in memory at a time. Raises CorpusError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(folder / DOCUMENTS_FILE) as file:
            for batch in file.iter_batches(columns=["sha256", "text"]):
                yield from zip(batch["sha256"].to_pylist(), batch["text"].to_pylist(), strict=True)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"cannot read {folder / DOCUMENTS_FILE}: {error}", "delete its folder and run the recipe again"
        ) from error


def first_windows(index: Index, documents: int, tokens: int) -> Index:
    """The first `tokens` tokens of at most `documents` documents, in the order of the index: many documents for few
    tokens. The documents are drawn at random, always the same ones.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(index.starts) - 1)[:documents])
    return _beginnings(index, drawn, np.minimum(index.starts[drawn + 1], index.starts[drawn] + tokens))


def whole_documents(index: Index, tokens: int) -> Index:
    """Whole documents until they have `tokens` tokens, in the order of the index; the last one may exceed it, but one
    that is longer than `tokens` is cut there. The documents are drawn at random, always the same ones.
    """
    if index.starts[-1] <= tokens:
        return index
    drawn = np.random.default_rng(0).permutation(len(index.starts) - 1)
    lengths = np.minimum(np.diff(index.starts)[drawn], tokens)
    taken = np.sort(drawn[: 1 + int(np.searchsorted(np.cumsum(lengths), tokens))])
    return _beginnings(index, taken, np.minimum(index.starts[taken + 1], index.starts[taken] + tokens))


def _beginnings(index: Index, documents: np.ndarray, ends: np.ndarray) -> Index:
    """These documents of `index`, each up to its row of `ends`."""
    begins = index.starts[documents]
    rows = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
    starts = np.concatenate([[0], np.cumsum(ends - begins)]).astype(np.int64)
    names = (name.replace("class", "token_class") for name in COLUMNS)
    return replace(index, **{name: getattr(index, name)[rows] for name in names}, starts=starts)


def trained_tokens(document: Document, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool [tokens]: the tokens that are trained under sft, from their character offsets.

    After a prompt, the tokens that begin there: a token that spans the prompt's end is not trained. Of a conversation,
    the tokens that hold a character of an answer, as in transformers' mask of assistant tokens.
    """
    if not document.answers:
        return effective_spans(starts, ends)[0] >= document.prompt_chars
    return np.any([(starts < end) & (ends > start) for start, end in document.answers], axis=0)


def token_bytes(text: str, ends: np.ndarray) -> np.ndarray:
    """UTF-8 bytes of each token (int32 [tokens]), from the character offsets `ends` at which the tokens end.

    A token gets the bytes between the furthest end before it and its own end: characters that no token covers go to
    the token after them, those after the last token to the last. Where several tokens share a character, the first
    gets all of its bytes and the others 0. The sum is `len(text.encode())` for every text that has a token.
    """
    if not len(ends):
        return np.zeros(0, dtype=np.int32)
    position = byte_positions(text)
    border = position[np.clip(np.maximum.accumulate(ends), 0, len(text))]
    border[-1] = position[-1]
    return np.diff(border, prepend=0).astype(np.int32)


def byte_positions(text: str) -> np.ndarray:
    """int64 [characters + 1]: the UTF-8 byte at which each character begins; the last is the length in bytes."""
    if text.isascii():
        return np.arange(len(text) + 1, dtype=np.int64)
    points = code_points(text)
    width = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate([[0], np.cumsum(width)])


def _write(folder: Path, chosen: Iterator[TokenizedDocument], special: np.ndarray, counts: dict[str, Any]) -> None:
    """Both tables, batch by batch, adding to `counts`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows_schema, documents_schema = (
        pa.schema([(name, pa.bool_() if kind == "bool" else kind) for name, kind in columns.items()])
        for columns in (COLUMNS, DOCUMENT_COLUMNS)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(folder / INDEX_FILE, rows_schema, compression="zstd") as index,
        pq.ParquetWriter(folder / DOCUMENTS_FILE, documents_schema, compression="zstd") as documents,
    ):
        while batch := list(islice(chosen, BATCH_DOCUMENTS)):
            rows = [_rows(counts["documents"] + i, tokenized, special) for i, tokenized in enumerate(batch)]
            index.write_table(
                pa.table([np.concatenate([columns[name] for columns in rows]) for name in COLUMNS], schema=rows_schema)
            )
            described = [
                {
                    "document": counts["documents"] + i,
                    "id": tokenized.document.id,
                    "sha256": tokenized.document.key,
                    "text": tokenized.document.text,
                    "tokens": len(tokenized.ids),
                    "bytes": int(columns["bytes"].sum()),
                    "cluster": tokenized.document.cluster or f"{counts['documents'] + i}:{tokenized.document.id}",
                }
                for i, (tokenized, columns) in enumerate(zip(batch, rows, strict=True))
            ]
            documents.write_table(pa.Table.from_pylist(described, schema=documents_schema))
            counts["documents"] += len(batch)
            counts["tokens"] += sum(row["tokens"] for row in described)
            counts["bytes"] += sum(row["bytes"] for row in described)


def _rows(number: int, tokenized: TokenizedDocument, special: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of one document, by column."""
    starts, ends = tokenized.offsets[:, 0], tokenized.offsets[:, 1]
    text = tokenized.document.text
    return {
        "document": np.full(len(tokenized.ids), number, dtype=np.int32),
        "position": np.arange(len(tokenized.ids), dtype=np.int32),
        "token": tokenized.ids,
        "start": starts,
        "end": ends,
        "bytes": token_bytes(text, ends),
        "class": classify(text, starts, ends, np.isin(tokenized.ids, special)),
        "trained": trained_tokens(tokenized.document, starts, ends),
    }
