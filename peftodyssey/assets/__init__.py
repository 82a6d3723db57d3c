"""Models, corpora and tasks that come with the package. Floor 0, standard library only.

They are read through `importlib.resources`: corpora are decompressed in memory, models are unpacked to the user's
cache. Licences and attribution are in NOTICE.
"""

from peftodyssey.assets.cache import cache_folder, model_files, unpack_model
from peftodyssey.assets.catalogue import (
    DEFAULT_RUNG,
    CorpusKind,
    corpora,
    corpus_bytes,
    corpus_kind,
    ladder,
    model_bytes,
    model_sha256,
    models,
    open_corpus,
    rungs,
    sha256,
    splits,
)

__all__ = [
    "DEFAULT_RUNG",
    "CorpusKind",
    "cache_folder",
    "corpora",
    "corpus_bytes",
    "corpus_kind",
    "ladder",
    "model_bytes",
    "model_files",
    "model_sha256",
    "models",
    "open_corpus",
    "rungs",
    "sha256",
    "splits",
    "unpack_model",
]
