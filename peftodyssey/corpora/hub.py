"""Datasets of the Hugging Face Hub, streamed through `datasets`, at one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftodyssey.constants import TEXT_COMPRESSION, TEXT_FORMATS
from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.row_schema import RowSchema, infer_schema
from peftodyssey.corpora.splits import match_splits
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

DATA_ENDINGS = (*(TEXT_FORMATS.keys() - {".md"}), *TEXT_COMPRESSION, ".arrow")  # a .md describes the dataset


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turns the Hub's errors about dataset `name` into CorpusError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise CorpusError(
            f"dataset {name} has no revision {revision!r}", "use a branch, tag or commit of it"
        ) from error
    except errors.GatedRepoError as error:
        raise CorpusError(
            f"dataset {name} is gated", "accept its terms on its Hub page, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise CorpusError(
            f"there is no dataset {name!r} on the Hub, or you may not read it",
            "check the spelling (hub:owner/name), or `hf auth login`; a path on this computer needs no `hub:`",
        ) from error
    except (errors.HTTPError, OSError) as error:  # errors.HTTPError: that of the client that huggingface_hub uses
        raise CorpusError(
            f"the Hub cannot be reached for {name}: {error}",
            "connect (unset HF_HUB_OFFLINE), or download the dataset and give its path",
        ) from error


def dataset_name(spec: CorpusSpec) -> str:
    """The dataset's id, or the path of a folder laid out as one."""
    return spec.source.removeprefix("hub:")


def commit_of(spec: CorpusSpec) -> str:
    """The commit to read, asked of the Hub; for a folder on disk a hash of its data files. Raises CorpusError."""
    name = dataset_name(spec)
    if Path(name).is_dir():
        files = sorted(p for p in Path(name).rglob("*") if p.is_file() and p.name.endswith(DATA_ENDINGS))
        return fingerprint.of_splits({str(p.relative_to(name)): [fingerprint.of_file(p)] for p in files})
    from huggingface_hub import HfApi

    with hub_errors(name, spec.revision):
        return str(HfApi().dataset_info(name, revision=spec.revision).sha)


def inspect(spec: CorpusSpec, commit: str) -> tuple[dict[str, str], RowSchema]:
    """({train, valid or test: the dataset's name of that split}, schema), from its splits and its first row."""
    where = f"hub:{dataset_name(spec)}"
    dataset = _load(spec, commit)
    names = match_splits(list(dataset), spec.split, where)
    row = next(iter(dataset[next(iter(names.values()))]), None)
    if row is None:
        raise CorpusError(f"{where} is empty", "choose another config or split")
    return names, infer_schema(row, spec.field, where, spec.columns)


def split_names(spec: CorpusSpec, commit: str) -> list[str]:
    """The dataset's own names of its splits."""
    return list(_load(spec, commit))


def rows(spec: CorpusSpec, commit: str, split: str, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of one split, streamed."""
    for number, row in enumerate(_load(spec, commit)[split]):
        yield f"hub:{dataset_name(spec)}:{split}:{number}", {name: row.get(name) for name in columns if name in row}


def _load(spec: CorpusSpec, commit: str) -> Any:
    """An IterableDatasetDict; only what is read is downloaded, and no script is run."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = dataset_name(spec)
    revision = None if Path(name).is_dir() else commit
    try:
        return load_dataset(name, spec.config, streaming=True, revision=revision)
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        with_config = f" with config {spec.config!r}" if spec.config else ""
        raise CorpusError(
            f"hub:{name} cannot be opened{with_config}: {error}",
            "set `config:` to one of its configs; datasets that need a script cannot be read: export them to parquet",
        ) from error
