"""What a recipe names as a text: found, inspected and given a fingerprint, before any of it is read.

`bundled/<name>` (shipped), `m2d2/<config>`, `hub:<dataset>`, or a path: a file, folder or pattern of txt, md, jsonl,
csv, tsv or parquet, plain, .gz or .zst, or a tarball `<config>.tar.gz` laid out like M2D2's. Nothing large is
downloaded here.
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
from peftodyssey.corpora.readers import format_of, json_rows
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
    """Raises CorpusError where the rows of `corpus` and the objective do not belong together."""
    turns = corpus.row_schema.turns
    if objective == "text" and turns is not None:
        fields = "messages" if turns == "messages" else "prompt and completion"
        alternative = ", or name the text to train on: `field: text`" if "text" in corpus.fields else ""
        raise CorpusError(
            f"{corpus.name} has {fields}, but the objective is text",
            f"add the line `train: {{objective: sft}}` to train on the answers only{alternative}",
        )
    if objective == "sft" and turns is None:
        raise CorpusError(
            f"{corpus.name} has neither prompt and completion nor messages, but the objective is sft",
            "add these fields, or remove `objective: sft` to train on the whole text",
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
    schema = infer_schema(row, spec.field, spec.source)
    digest = _digest({key: [assets.sha256(name, split)] for key, split in names.items()}, schema, "document")
    size = sum(assets.corpus_bytes(name, split) for split in names.values())
    source_splits = {key: (split,) for key, split in names.items()}
    return Corpus(spec.name, spec, "bundled", digest, source_splits, schema, "document", size)


def _local(spec: CorpusSpec) -> Corpus:
    if spec.config is not None:
        raise CorpusError(f"{spec.source} is a path, and paths have no config", "remove `config:`")
    files = local.find_splits(spec.source, spec.split)
    schema = local.inspect(files, spec.field)
    unit = "block" if any(len(f) == 1 and format_of(f[0]) == "txt" for f in files.values()) else "document"
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    digest = _digest(local.content_hashes(files), schema, unit)
    source_splits = {key: tuple(paths) for key, paths in files.items()}
    return Corpus(spec.name, spec, "local", digest, source_splits, schema, unit, size)


def _hub(spec: CorpusSpec) -> Corpus:
    commit = hub.commit_of(spec)
    names, schema = hub.inspect(spec, commit)
    dataset = [] if Path(hub.dataset_name(spec)).is_dir() else [hub.dataset_name(spec)]
    digest = _digest(
        {key: [*dataset, commit, str(spec.config), name] for key, name in names.items()}, schema, "document"
    )
    source_splits = {key: (name,) for key, name in names.items()}
    return Corpus(spec.name, spec, "hub", digest, source_splits, schema, "document", None, commit)


def _m2d2(spec: CorpusSpec, config: str, copy: Path | None) -> Corpus:
    if spec.field is not None or named_splits(spec.split):
        raise CorpusError(f"{spec.name}: M2D2 has lines and fixed splits", "remove `field:` and the names of splits")
    refuse_shares(spec.split, SPLITS, spec.source)
    content, size = m2d2.identity(config, copy, spec.revision)
    schema = RowSchema(())
    digest = _digest({split: [content] for split in SPLITS}, schema, "block")
    return Corpus(spec.name, spec, "m2d2", digest, dict.fromkeys(SPLITS, (config, copy)), schema, "block", size)


def _digest(content: Mapping[str, list[str]], schema: RowSchema, unit: str) -> str:
    return fingerprint.of_splits(content, field=schema.field, turns=schema.turns, unit=unit)
