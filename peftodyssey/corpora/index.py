"""The index of a text under one tokenizer: one row per token, in the order that every column of evidence has.

`build_index` is called once per text, split and tokenizer by jobs; `read_index` by training, scoring and the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peftodyssey.corpora import choose, token_bytes, token_classes
from peftodyssey.corpora.documents import Document, with_newlines
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from tokenizers import Tokenizer

INDEX, DOCUMENTS = "index.parquet", "documents.parquet"
BATCH_DOCUMENTS = 256
TOKENISED_FIRST, TOKENISED_CHARACTERS = 4, 2000  # of each, where the others' tokens are estimated
ROWS = {
    "document": "int32",
    "position": "int32",
    "token": "int32",
    "start": "int32",
    "end": "int32",
    "bytes": "int32",
    "class": "int8",
    "trained": "bool",
}


class Encodes(Protocol):
    """What of a tokenizer is used here; `models.tokenizer.TextTokenizer` has it."""

    @property
    def backend(self) -> Tokenizer: ...


@dataclass(frozen=True)
class Index:
    """One row per token, all arrays in the same order; `starts` marks where documents begin."""

    folder: Path
    document: np.ndarray  # int32 [rows]
    position: np.ndarray  # int32 [rows], from 0 in each document
    token: np.ndarray  # int32 [rows], ids
    start: np.ndarray  # int32 [rows], character offset in the document
    end: np.ndarray  # int32 [rows]
    bytes: np.ndarray  # int32 [rows]; a document's add up to its UTF-8 length
    token_class: np.ndarray  # int8 [rows], places in classes.CLASSES
    trained: np.ndarray  # bool [rows], False for the tokens of a prompt
    starts: np.ndarray  # int64 [documents + 1], rows at which documents begin, and the number of rows

    @cached_property
    def documents(self) -> pa.Table:
        """document, id, sha256, text, tokens, bytes: one row per document, read when first asked for."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / DOCUMENTS)


def build_index(
    documents: Iterable[Document],
    tokenizer: Encodes,
    folder: Path,
    *,
    max_tokens: int | None = None,
    newline: str = "keep",
    shuffle_seed: int | None = None,
    name: str = "the corpus",
) -> dict[str, Any]:
    """Write index.parquet and documents.parquet into `folder` and return counts: documents, tokens, bytes, truncated,
    dropped.

    With `max_tokens`, whole documents are taken in the order of their hash until it is reached (the last may go
    beyond), so the choice is the same for every recipe; rows keep the order of the source unless `shuffle_seed` is
    given. Documents without a token are dropped and counted. `newline` is keep, strip or collapse (`policy_of`). Raises
    CorpusError where fewer than two tokens are left.
    """
    count = {"documents": 0, "tokens": 0, "bytes": 0, "truncated": False, "dropped": 0}
    prepared = (with_newlines(document, newline) for document in documents)
    chosen = choose.choose(prepared, lambda batch: _encode(batch, tokenizer.backend), max_tokens, shuffle_seed, count)
    _write(folder, chosen, _special_ids(tokenizer.backend), count)
    if count["tokens"] < 2:
        raise CorpusError(
            f"{name} gives {count['tokens']} token{'s' * (count['tokens'] != 1)} in {count['documents']} documents:"
            " nothing can be predicted",
            "add text, or give this split a larger share (split: {valid: 10%, test: 20%}) or a file of its own",
        )
    return count


def about_token_counts(
    documents: Iterable[Document], tokenizer: Encodes, max_tokens: int | None, newline: str
) -> list[int]:
    """About how many tokens each document has that `build_index` would take: only the first ones are tokenised, the
    rest by their length.
    """
    remaining = iter(with_newlines(document, newline) for document in documents)
    first = list(islice(remaining, TOKENISED_FIRST))
    parts = [document.text[:TOKENISED_CHARACTERS] for document in first]
    tokens = sum(len(e.ids) for e in tokenizer.backend.encode_batch(parts, add_special_tokens=False))
    each = sum(map(len, parts)) / max(tokens, 1)

    def encode(batch: Sequence[Document]) -> list[choose.TokenizedDocument]:
        return [choose.TokenizedDocument(document, range(round(len(document.text) / each)), ()) for document in batch]

    chosen = choose.choose(chain(first, remaining), encode, max_tokens, None, {"dropped": 0, "truncated": False})
    return [len(encoded.ids) for encoded in chosen]


def read_index(folder: Path) -> Index:
    """The index in `folder`. Raises CorpusError where it is missing or damaged."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / INDEX)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"cannot read {folder / INDEX}: {error}", "delete its folder and run the recipe again"
        ) from error
    column = {name: table[name].to_numpy() for name in ROWS}
    first = np.flatnonzero(np.diff(column["document"], prepend=-1))
    starts = np.append(first, table.num_rows).astype(np.int64)
    return Index(
        folder=folder,
        document=column["document"],
        position=column["position"],
        token=column["token"],
        start=column["start"],
        end=column["end"],
        bytes=column["bytes"],
        token_class=column["class"],
        trained=column["trained"],
        starts=starts,
    )


def _encode(batch: Sequence[Document], backend: Tokenizer) -> list[choose.TokenizedDocument]:
    import numpy as np

    encodings = backend.encode_batch([document.text for document in batch], add_special_tokens=False)
    return [
        choose.TokenizedDocument(
            document, np.array(e.ids, dtype=np.int32), np.array(e.offsets, dtype=np.int32).reshape(-1, 2)
        )
        for document, e in zip(batch, encodings, strict=True)
    ]


def _special_ids(backend: Tokenizer) -> np.ndarray:
    import numpy as np

    return np.array([i for i, token in backend.get_added_tokens_decoder().items() if token.special], dtype=np.int32)


def _write(
    folder: Path, chosen: Iterator[choose.TokenizedDocument], special: np.ndarray, count: dict[str, Any]
) -> None:
    """Both tables, batch by batch, adding to `count`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.schema([(key, pa.bool_() if kind == "bool" else kind) for key, kind in ROWS.items()])
    texts = pa.schema(
        [
            ("document", "int32"),
            ("id", "string"),
            ("sha256", "string"),
            ("text", "string"),
            ("tokens", "int32"),
            ("bytes", "int64"),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(folder / INDEX, rows, compression="zstd") as index,
        pq.ParquetWriter(folder / DOCUMENTS, texts, compression="zstd") as table,
    ):
        while batch := list(islice(chosen, BATCH_DOCUMENTS)):
            made = [_rows(count["documents"] + i, encoded, special) for i, encoded in enumerate(batch)]
            index.write_table(pa.table([_joined(made, key) for key in ROWS], schema=rows))
            described = [
                _described(count["documents"] + i, e, r) for i, (e, r) in enumerate(zip(batch, made, strict=True))
            ]
            table.write_table(pa.Table.from_pylist(described, schema=texts))
            count["documents"] += len(batch)
            count["tokens"] += sum(d["tokens"] for d in described)
            count["bytes"] += sum(d["bytes"] for d in described)


def _rows(number: int, encoded: choose.TokenizedDocument, special: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of one document, by column."""
    import numpy as np

    starts, ends = encoded.offsets[:, 0], encoded.offsets[:, 1]
    text = encoded.document.text
    return {
        "document": np.full(len(encoded.ids), number, dtype=np.int32),
        "position": np.arange(len(encoded.ids), dtype=np.int32),
        "token": encoded.ids,
        "start": starts,
        "end": ends,
        "bytes": token_bytes.token_bytes(text, ends),
        "class": token_classes.classify(text, starts, ends, np.isin(encoded.ids, special)),
        "trained": trained_tokens(encoded.document, starts, ends),
    }


def trained_tokens(document: Document, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """bool [tokens]: what is learnt under sft, from the tokens' character offsets.

    Behind a prompt, tokens that begin there: one that the prompt's end shares is not learnt. Of a conversation, tokens
    that hold a character of an answer, as transformers' mask of assistant tokens.
    """
    import numpy as np

    if not document.answers:
        return token_classes.effective_spans(starts, ends)[0] >= document.prompt_chars
    return np.any([(starts < end) & (ends > start) for start, end in document.answers], axis=0)


def _described(number: int, encoded: choose.TokenizedDocument, rows: dict[str, np.ndarray]) -> dict[str, Any]:
    document = encoded.document
    return {
        "document": number,
        "id": document.id,
        "sha256": document.key,
        "text": document.text,
        "tokens": len(encoded.ids),
        "bytes": int(rows["bytes"].sum()),
    }


def _joined(made: list[dict[str, np.ndarray]], key: str) -> np.ndarray:
    import numpy as np

    return np.concatenate([rows[key] for rows in made])
