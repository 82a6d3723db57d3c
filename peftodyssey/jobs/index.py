"""Job: tokenize one split of one text and commit its index."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from peftodyssey.corpora.documents import Document, documents
from peftodyssey.corpora.index import Index, build_index, indexed_texts, read_index
from peftodyssey.corpora.overlap import Reference
from peftodyssey.models.tokenizer import TextTokenizer, check_ids
from peftodyssey.plan.tasks import IndexTask
from peftodyssey.store import manifest


def index(task: IndexTask, root: Path, tokenizer: TextTokenizer) -> None:
    """Writes `index.parquet` and `documents.parquet` of `task`; CorpusError where the text cannot be used."""
    folder, left_out = manifest.prepare_dir(root / task.folder), Counter[str]()
    found = documents(task.corpus, task.split, task.chat, left_out)
    counts = build_index(
        _apart(found, [root / other for other in task.apart_from], left_out) if task.apart_from else found,
        tokenizer,
        folder,
        max_tokens=task.max_tokens,
        newline=task.newline,
        name=f"{task.corpus.name} ({task.split})",
        parse_special=task.chat is not None or task.corpus.spec.special_tokens == "parse",
    )
    check_ids(int(read_index(folder).token.max()), task.corpus.name, task.tokenizer_source, tokenizer)
    facts = {
        **counts,
        "split": task.split,
        "name": task.corpus.name,
        "tokenizer": tokenizer.fingerprint,
        "framed": task.chat is not None,
        "left_out": dict(left_out),
    }
    manifest.commit(folder, {"kind": "index", "identity": task.identity, "status": "done", "facts": facts})


def _apart(found: Iterable[Document], others: Sequence[Path], left_out: Counter[str]) -> Iterator[Document]:
    """The documents that do not stand in the texts that `others` index, and in which none of theirs do."""
    reference = Reference(pair for folder in others for pair in indexed_texts(folder))
    for document in found:
        if reference.contains(document.key, document.text) or reference.has_one_in(document.text):
            left_out["overlap"] += 1
        else:
            yield document


@functools.lru_cache(maxsize=16)
def opened(folder: Path) -> Index:
    """The committed index in `folder`; cached, because many cells read the same one."""
    return read_index(folder)
