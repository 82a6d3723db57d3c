"""Job: tokenize one split of one text and commit its index."""

from __future__ import annotations

import functools
from pathlib import Path

from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import Index, build_index, read_index
from peftodyssey.models.tokenizer import TextTokenizer, check_ids
from peftodyssey.plan.tasks import IndexTask
from peftodyssey.store import manifest


def index(task: IndexTask, root: Path, tokenizer: TextTokenizer) -> None:
    """Writes `index.parquet` and `documents.parquet` of `task`; CorpusError where the text cannot be used."""
    folder = manifest.prepare_dir(root / task.folder)
    counts = build_index(
        documents(task.corpus, task.split, task.chat),
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
    }
    manifest.commit(folder, {"kind": "index", "identity": task.identity, "status": "done", "facts": facts})


@functools.lru_cache(maxsize=16)
def opened(folder: Path) -> Index:
    """The committed index in `folder`; cached, because many cells read the same one."""
    return read_index(folder)
