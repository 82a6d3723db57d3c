"""Data sets of the Hugging Face Hub, streamed through `datasets`, at one commit. Called by corpora.source and rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.hub_errors import hub_errors
from peftodyssey.corpora.row_schema import RowSchema, infer_schema, parts_of_names
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".txt", ".csv", ".gz", ".zst", ".arrow")


def data_set(point: CorpusSpec) -> str:
    """The data set's id, or the path of a folder laid out as one."""
    return point.source.removeprefix("hub:")


def commit_of(point: CorpusSpec) -> str:
    """The commit that is read, asked of the Hub; for a folder on disk the hash of its data files. Raises CorpusError."""
    name = data_set(point)
    if Path(name).is_dir():
        files = sorted(p for p in Path(name).rglob("*") if p.is_file() and p.name.endswith(DATA_ENDINGS))
        return fingerprint.of_parts({str(p.relative_to(name)): [fingerprint.of_file(p)] for p in files})
    from huggingface_hub import HfApi

    with hub_errors(name, point.revision):
        return str(HfApi().dataset_info(name, revision=point.revision).sha)


def inspect(point: CorpusSpec, commit: str) -> tuple[dict[str, str], RowSchema]:
    """({part: split name}, layout), from the data set's own splits and its first row."""
    where = f"hub:{data_set(point)}"
    loaded = _load(point, commit)
    parts = parts_of_names(list(loaded), point.split, where)
    row = next(iter(loaded[next(iter(parts.values()))]), None)
    if row is None:
        raise CorpusError(f"{where} is empty", "choose another config or split")
    return parts, infer_schema(row, point.field, where)


def split_names(point: CorpusSpec, commit: str) -> list[str]:
    """The data set's own splits."""
    return list(_load(point, commit))


def rows(point: CorpusSpec, commit: str, split: str, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of one split, streamed."""
    stream = _load(point, commit)[split]
    for number, row in enumerate(stream):
        yield f"hub:{data_set(point)}:{split}:{number}", {name: row.get(name) for name in columns if name in row}


def _load(point: CorpusSpec, commit: str) -> Any:
    """An IterableDatasetDict; nothing is downloaded but what is read, and no script is run."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = data_set(point)
    revision = None if Path(name).is_dir() else commit
    try:
        return load_dataset(name, point.config, streaming=True, revision=revision)
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        raise CorpusError(
            f"hub:{name} cannot be opened{f' with config {point.config!r}' if point.config else ''}: {error}",
            "set `config:` to one of its configurations; data sets that need a script cannot be read: export them to parquet",
        ) from error
