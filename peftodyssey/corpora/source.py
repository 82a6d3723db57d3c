"""Where a text comes from: what a recipe names, found, looked at and given a fingerprint. Called by plans, check and
score.

`bundled/<name>` (shipped), `m2d2/<config>`, `hub:<data set>`, or a path: a file, folder or pattern of txt, md, jsonl or
parquet, plain, .gz or .zst, or a tarball `<config>.tar.gz` laid out like M2D2's. Nothing large is downloaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftodyssey.corpora import fingerprint, hub, local, m2d2
from peftodyssey.corpora.documents import SPLITS, shares_of
from peftodyssey.corpora.readers import format_of, json_rows
from peftodyssey.corpora.row_schema import (
    RowSchema,
    did_you_mean,
    infer_schema,
    named_splits,
    parts_of_names,
    refuse_shares,
)
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
    source_splits: Mapping[str, tuple[Any, ...]] = field(
        repr=False
    )  # what the source itself keeps apart: split -> files or names
    row_schema: RowSchema
    unit: str  # "document", or "block" where the source has no document marks
    bytes_on_disk: int | None
    commit: str | None = None  # of a Hub data set

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
        """The splits that `documents` can give: all where there is a train part to cut the others from."""
        return SPLITS if "train" in self.source_splits else tuple(s for s in SPLITS if s in self.source_splits)


def resolve(point: CorpusSpec) -> Corpus:
    """The corpus that `point` names. Quick, without torch; raises CorpusError where it cannot be read as asked."""
    shares_of(point.split)
    if not set(point.split) <= set(SPLITS):
        raise CorpusError(
            f"{point.name}: split has {sorted(set(point.split) - set(SPLITS))}", "use train, valid and test"
        )
    kind, _, rest = point.source.partition("/")
    if kind == "bundled":
        return _bundled(point, rest)
    if kind == "m2d2":
        m2d2.check_name(rest)
        return _m2d2(point, rest, m2d2.local_copy(rest))
    if point.source.endswith(TARBALL) and Path(point.source).is_file():
        return _m2d2(point, Path(point.source).name.removesuffix(TARBALL), Path(point.source))
    if point.source.startswith("hub:"):
        return _hub(point)
    return _local(point)


def check_objective(corpus: Corpus, objective: str) -> None:
    """Raises CorpusError where the rows of `corpus` and the objective do not belong together."""
    turns = corpus.row_schema.turns
    if objective == "text" and turns is not None:
        found = "messages" if turns == "messages" else "prompt and completion"
        other = ", or name the text to train on: `field: text`" if "text" in corpus.fields else ""
        raise CorpusError(
            f"{corpus.name} has {found}, and the objective is text",
            f"add the line `train: {{objective: sft}}` to train on the answers only{other}",
        )
    if objective == "sft" and turns is None:
        raise CorpusError(
            f"{corpus.name} has neither prompt and completion nor messages, and the objective is sft",
            "add these fields, or leave out `objective: sft` to train on the whole text",
        )


def _bundled(point: CorpusSpec, name: str) -> Corpus:
    from peftodyssey import assets

    if name not in assets.corpora():
        near = did_you_mean(name, assets.corpora())
        raise CorpusError(f"there is no bundled text {name!r}", f"{near}there are: {', '.join(assets.corpora())}")
    parts = parts_of_names(assets.splits(name), point.split, point.source)
    with assets.open_corpus(name, next(iter(parts.values()))) as stream:
        _, row = next(json_rows(stream, point.source))
    layout = infer_schema(row, point.field, point.source)
    content = {part: [assets.sha256(name, split)] for part, split in parts.items()}
    size = sum(assets.corpus_bytes(name, split) for split in parts.values())
    return _corpus(
        point, "bundled", content, {part: (split,) for part, split in parts.items()}, layout, "document", size
    )


def _local(point: CorpusSpec) -> Corpus:
    if point.config is not None:
        raise CorpusError(f"{point.source} is a path, and paths have no config", "leave out `config:`")
    parts = local.find_parts(point.source, point.split)
    layout = local.inspect(parts, point.field)
    files = {part: tuple(found) for part, found in parts.items()}
    unit = "block" if any(len(f) == 1 and format_of(f[0]) == "txt" for f in files.values()) else "document"
    size = sum(path.stat().st_size for found in parts.values() for path in found)
    return _corpus(point, "local", local.content_hashes(parts), files, layout, unit, size)


def _hub(point: CorpusSpec) -> Corpus:
    commit = hub.commit_of(point)
    names, layout = hub.inspect(point, commit)
    content = {part: [hub.data_set(point), commit, str(point.config), name] for part, name in names.items()}
    if Path(hub.data_set(point)).is_dir():
        content = {part: entry[1:] for part, entry in content.items()}
    return _corpus(point, "hub", content, {p: (name,) for p, name in names.items()}, layout, "document", None, commit)


def _m2d2(point: CorpusSpec, config: str, copy: Path | None) -> Corpus:
    if point.field is not None or named_splits(point.split):
        raise CorpusError(f"{point.name}: M2D2 has lines and fixed splits", "leave out `field:` and split names")
    refuse_shares(point.split, SPLITS, point.source)
    digest, size = m2d2.identity(config, copy, point.revision)
    parts = dict.fromkeys(SPLITS, (config, copy))
    return _corpus(point, "m2d2", {split: [digest] for split in SPLITS}, parts, RowSchema(()), "block", size)


def _corpus(
    point: CorpusSpec,
    kind: str,
    content: dict[str, list[str]],
    parts: Mapping[str, tuple[Any, ...]],
    layout: RowSchema,
    unit: str,
    size: int | None,
    commit: str | None = None,
) -> Corpus:
    digest = fingerprint.of_parts(content, field=layout.field, turns=layout.turns, unit=unit)
    return Corpus(point.name, point, kind, digest, parts, layout, unit, size, commit)
