"""What a recipe names as a text: found, inspected and given a fingerprint, before any of it is read.

`bundled/<name>` (shipped), `m2d2/<config>`, `hub:<dataset>`, or a path: a file, folder or pattern of text, JSON, csv,
tsv or parquet, plain or compressed, or a tarball `<config>.tar.gz` laid out like M2D2's. Nothing large is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.constants import SPLITS
from peftodyssey.corpora import fingerprint, hub, local, m2d2
from peftodyssey.corpora.json_values import json_rows
from peftodyssey.corpora.row_schema import RowSchema, infer_schema
from peftodyssey.corpora.splits import did_you_mean, match_splits, named_splits, refuse_shares, shares_of
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

TARBALL = ".tar.gz"


@dataclass(frozen=True)
class Corpus:
    """A text that exists and can be read, before any of it is."""

    name: str
    spec: CorpusSpec
    kind: str  # bundled | local | hub | m2d2
    fingerprint: str  # sha256 hex of the content and of how it is read
    source_splits: Mapping[str, tuple[Any, ...]] = field(repr=False)  # splits that the source has: their files or names
    row_schema: RowSchema
    unit: str  # "document", or "block" where the source has no document marks
    bytes_on_disk: int | None
    commit: str | None = None  # of a Hub dataset

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it is read from, where it is on this computer."""
        return tuple(entry for entries in self.source_splits.values() for entry in entries if isinstance(entry, Path))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of its rows; none for plain text."""
        return self.row_schema.fields

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that `documents` can give: all where there is a train split to cut the others from."""
        return SPLITS if "train" in self.source_splits else tuple(s for s in SPLITS if s in self.source_splits)


def resolve(spec: CorpusSpec) -> Corpus:
    """The corpus that `spec` names. Quick, without torch; raises CorpusError where it cannot be read as asked."""
    shares_of(spec.split)
    if not set(spec.split) <= set(SPLITS):
        raise CorpusError(
            f"{spec.name}: split has {sorted(set(spec.split) - set(SPLITS))}", "use train, valid and test"
        )
    kind, _, name = spec.source.partition("/")
    if kind == "bundled":
        return _bundled(spec, name)
    if kind == "m2d2":
        m2d2.check_name(name)
        return _m2d2(spec, name, m2d2.local_copy(name))
    if spec.source.endswith(TARBALL) and Path(spec.source).is_file():
        return _m2d2(spec, Path(spec.source).name.removesuffix(TARBALL), Path(spec.source))
    return _hub(spec) if spec.source.startswith("hub:") else _local(spec)


def check_objective(corpus: Corpus, objective: str) -> None:
    """Raises CorpusError where there are no answers to train on alone."""
    if objective == "sft" and corpus.row_schema.turns is None:
        held = f" it has the columns {', '.join(corpus.fields)}," if corpus.fields else ""
        raise CorpusError(
            f"{corpus.name} is read as {corpus.row_schema.described()},{held} and the objective is sft, which trains "
            "on answers alone",
            "name prompt and answer: `columns: {prompt: COLUMN, completion: COLUMN}`, or remove `objective: sft`",
        )


def text_group(spec: CorpusSpec) -> str:
    """The group of texts within which a correlation over texts is also measured, because texts of one kind are similar.

    The first part of the text's name, up to `_`, `-` or a dot; of M2D2's configs wikipedia or s2orc.
    """
    if spec.source.startswith("m2d2/"):
        config = spec.source.removeprefix("m2d2/").split("__")[0]
        return "wikipedia" if config in m2d2.WIKIPEDIA else "s2orc"
    return re.split(r"[-_.]", spec.name)[0].lower()


def _bundled(spec: CorpusSpec, name: str) -> Corpus:
    if name not in assets.corpora():
        near = did_you_mean(name, assets.corpora())
        raise CorpusError(f"there is no bundled text {name!r}", f"{near}there are: {', '.join(assets.corpora())}")
    names = match_splits(assets.splits(name), spec.split, spec.source)
    with assets.open_corpus(name, next(iter(names.values()))) as stream:
        _, row = next(json_rows(stream, spec.source))
    schema = infer_schema(row, spec.field, spec.source, spec.columns)
    digest = _digest(spec, {key: [assets.sha256(name, split)] for key, split in names.items()}, schema, "document")
    size = sum(assets.corpus_bytes(name, split) for split in names.values())
    source_splits = {key: (split,) for key, split in names.items()}
    return Corpus(spec.name, spec, "bundled", digest, source_splits, schema, "document", size)


def _local(spec: CorpusSpec) -> Corpus:
    if spec.config is not None:
        raise CorpusError(f"{spec.source} is a path, and paths have no config", "remove `config:`")
    files = local.find_splits(spec.source, spec.split)
    schema = local.inspect(files, spec)
    unit = "block" if any(len(f) == 1 and local.is_plain(f[0]) for f in files.values()) else "document"
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    digest = _digest(spec, local.content_hashes(files), schema, unit)
    source_splits = {key: tuple(paths) for key, paths in files.items()}
    return Corpus(spec.name, spec, "local", digest, source_splits, schema, unit, size)


def _hub(spec: CorpusSpec) -> Corpus:
    commit = hub.commit_of(spec)
    names, schema = hub.inspect(spec, commit)
    dataset = [] if Path(hub.dataset_name(spec)).is_dir() else [hub.dataset_name(spec)]
    content = {key: [*dataset, commit, str(spec.config), name] for key, name in names.items()}
    digest = _digest(spec, content, schema, "document")
    source_splits = {key: (name,) for key, name in names.items()}
    return Corpus(spec.name, spec, "hub", digest, source_splits, schema, "document", None, commit)


def _m2d2(spec: CorpusSpec, config: str, copy: Path | None) -> Corpus:
    if spec.field is not None or spec.columns or named_splits(spec.split):
        next_step = "remove `field:`, `columns:` and the names of splits"
        raise CorpusError(f"{spec.name}: M2D2 has lines and fixed splits", next_step)
    refuse_shares(spec.split, SPLITS, spec.source)
    content, size = m2d2.identity(config, copy, spec.revision)
    schema = RowSchema((), name="lines of M2D2")
    digest = _digest(spec, {split: [content] for split in SPLITS}, schema, "block")
    return Corpus(spec.name, spec, "m2d2", digest, dict.fromkeys(SPLITS, (config, copy)), schema, "block", size)


def _digest(spec: CorpusSpec, content: Mapping[str, list[str]], schema: RowSchema, unit: str) -> str:
    dropped = {"bad_rows": spec.bad_rows} if spec.bad_rows != "error" else {}
    options = {"field": schema.field, "turns": schema.turns, "unit": unit, **schema.options, **dropped}
    return fingerprint.of_splits(content, **options)
