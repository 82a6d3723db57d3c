"""The source of a text or task of a recipe, and its short name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from peftodyssey.constants import TEXT_COMPRESSION, TEXT_FORMATS
from peftodyssey.recipe.schema_texts import Corpus, Task

PREFIXES = ("bundled/", "m2d2/", "hub:")
FORMATS, COMPRESSION = ("|".join(map(re.escape, endings)) for endings in (TEXT_FORMATS, TEXT_COMPRESSION))
TEXT_ENDING = re.compile(f"({FORMATS})({COMPRESSION})?$")


def corpus_source(corpus: Corpus | Task) -> str:
    """What was written as `source` or `path`."""
    return corpus.source or corpus.path or ""


def is_path(corpus: Corpus | Task) -> bool:
    """Whether the source is a file or folder rather than a name."""
    return corpus.source is None or not corpus.source.startswith(PREFIXES)


def corpus_name(corpus: Corpus | Task) -> str:
    """The short name: as given, else the last part of the source; for a pattern, the folder that holds the files."""
    if corpus.name:
        return corpus.name
    source = corpus_source(corpus)
    if not is_path(corpus):
        last = source.removeprefix("hub:").rstrip("/").rsplit("/", 1)[-1]
    else:
        path = Path(source)
        while path.name and (set(path.name) & set("*?[") or path.name in (".", "..")):
            path = path.parent
        last = TEXT_ENDING.sub("", path.name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:64] or "text"


def absolute(text: str, folder: str) -> str:
    """`text` as an absolute path, starting from `folder`; `~` is the home folder."""
    path = Path(os.path.expanduser(text) if text == "~" or text.startswith("~/") else text)
    return str(path if path.is_absolute() else Path(folder) / path)


def absolute_source(corpus: Corpus | Task, folder: str) -> str:
    """The source of a text or task, a path as an absolute one."""
    return absolute(corpus_source(corpus), folder) if is_path(corpus) else corpus_source(corpus)
