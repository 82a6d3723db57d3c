"""A finished cell as something that others load: a PEFT adapter or a merged model, with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.errors import InputError, StoreError
from peftodyssey.execution.export_base import copy_tokenizer, plain_base
from peftodyssey.execution.export_card import CardFacts, card, change
from peftodyssey.execution.export_folder import new_folder
from peftodyssey.execution.merge import Merged, MergeOptions, merge_of
from peftodyssey.memory.device import detect
from peftodyssey.methods import saved
from peftodyssey.methods.adapter_files import CONFIG, MLX_WEIGHTS, WEIGHTS
from peftodyssey.methods.adapter_layouts import as_peft_reads_it
from peftodyssey.models.load import load
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.source import ModelSource, resolve
from peftodyssey.models.tokenizer import CHAT_TEMPLATE_FILE
from peftodyssey.models.weight_files import saved_fingerprint
from peftodyssey.plan.tasks import BaseModelKey
from peftodyssey.recipe.cell import QuantSpec
from peftodyssey.store import layout, manifest
from peftodyssey.store.run_reader import Run, describe_cells, one_row

PICKLES = (".bin", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Exported:
    """Where a cell was written, which cell it is with its results, and remarks on what was not taken."""

    folder: Path
    cell: str
    notes: tuple[str, ...] = ()
    merged: Merged | None = None


def export_cell(
    run: Run, cell: str, *, to: Path | None, merge: MergeOptions | None, push: str | None, device: str = "auto"
) -> Exported:
    """Write the weights of one cell and its card to `to`, complete or not at all.

    Raises InputError where the name fits no cell, or several, and where a merged model differs from its adapter by more
    than `merge` accepts.
    """
    folder = run.folder
    row, notes = _find(run, cell)
    entry = next((one for one in run.cells if (one["cell"], one["recipe"]) == (row["cell"], row["recipe"])), None)
    if entry is None:
        raise StoreError(f"no plan of {folder} names cell {row['cell']}", f"`peftodyssey check {folder}` says why")
    target = to or folder / "export" / entry["slug"]
    with new_folder(target) as writing, quiet():
        weights = _weights(folder, entry)
        base = BaseModelKey(_source(folder, entry, row), str(row["precision"]), _quant(row["quant"]))
        is_adapter, merged = (weights / CONFIG).is_file() or (weights / MLX_WEIGHTS).is_file(), None
        if merge and is_adapter:
            merged = merge_of(folder, entry, weights, base, detect(device).kind).write(writing, merge)
            is_adapter = False
        else:
            notes += ("its weights were trained themselves: there is nothing to merge",) if merge else ()
            _copy(weights, base, writing, is_adapter=is_adapter, is_saved=bool(entry.get("saved")))
        beside = plain_base(base.source, writing) if is_adapter else None
        template = _chat_template(folder, entry)
        if not is_adapter or template:
            copy_tokenizer(base.source, writing)
        if template:
            (writing / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")
            notes += (f"{CHAT_TEMPLATE_FILE} is the chat template that it was trained with",)
        facts = CardFacts(is_adapter, beside, base.quant, merged, base.source.kind == "hub", push)
        (writing / "README.md").write_text(card(row, facts), encoding="utf-8")
    if push:
        _push(target, push)
    return Exported(
        target, _results_of(row), (*notes, *saved.notes(weights), *(merged.notes if merged else ())), merged
    )


def _chat_template(folder: Path, entry: Mapping[str, Any]) -> str | None:
    """The template with which the cell's conversations became text; None where it was trained on none."""
    train = entry.get("train_index")
    written = manifest.read(folder / train) if train else None
    template: str | None = (written or {}).get("identity", {}).get("chat_template")
    return template


def _source(folder: Path, entry: Mapping[str, Any], row: Mapping[str, Any]) -> ModelSource:
    """The base of a cell; StoreError where its weights are others by now."""
    written = manifest.read(folder / entry["folder"]) or {}
    identity: Mapping[str, Any] = written.get("identity", {})
    positions = identity.get("science", {}).get("model", {}).get("max_position_embeddings")
    weights = "bin" if "base_weights" in written.get("facts", {}) else "safetensors"
    source = resolve(row["model"], row["revision"], positions, weights)
    if source.fingerprint != identity.get("facts", {}).get("model", source.fingerprint):
        raise StoreError(
            f"the weights of {source.name} are not those that the cell was made with", "run the recipe again with them"
        )
    return source


def _quant(name: str | None) -> QuantSpec | None:
    """The quantisation that a row of results names."""
    if not name:
        return None
    kind, plus, _ = name.partition("+")
    return QuantSpec(kind, bool(plus))


def _copy(weights: Path, base: BaseModelKey, folder: Path, *, is_adapter: bool, is_saved: bool) -> None:
    """An adapter as PEFT reads it, or a whole model; a saved folder's other files (checkpoints) stay where they are."""
    if not is_adapter:
        shutil.copytree(weights, folder, dirs_exist_ok=True, ignore=_not_of_the_model)
        return
    if is_saved:  # perhaps as another tool lays it out
        modules = [name for name, _ in load(base.source, precision=base.precision).named_modules()]
        weights, _ = as_peft_reads_it(weights, modules)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(weights / name, folder / name)


def _not_of_the_model(folder: str, names: list[str]) -> list[str]:
    """Folders, hidden files and pickles."""
    return [name for name in names if name.startswith(".") or Path(folder, name).is_dir() or name.endswith(PICKLES)]


def _results_of(row: Mapping[str, Any]) -> str:
    """A cell with its learning rate, seed and measured changes, in one line."""
    rate = "" if row["lr"] is None else f", lr {row['lr']:g}, seed {row['seed']}"
    forgetting = "" if row["forgetting"] is None else f", forgetting {change(row, 'forgetting', 'forgetting')}"
    return f"{row['label']} on {row['domain']}{rate}: test {change(row, 'delta_nll', 'delta')} nats/token{forgetting}"


def _find(run: Run, cell: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The row that a hash, `best` or `column=value,...` names, and remarks on better cells without weights."""
    rows = run.results.to_pylist()
    if cell == "best":
        return _best(run, [row for row in rows if row["status"] == "done"])
    rows = [row for row in rows if row["status"] in ("done", "damaged")]  # what is damaged is refused by its name
    if "=" in cell:
        return one_row(rows, dict(part.split("=", 1) for part in cell.split(",") if "=" in part)), ()
    matching = [row for row in rows if row["cell"].startswith(cell)]
    if len(matching) != 1:
        raise InputError(
            f"{len(matching)} finished cells start with {cell!r}", f"there are: {describe_cells(matching or rows)}"
        )
    return matching[0], ()


def _best(run: Run, rows: list[dict[str, Any]]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The cell with the largest fall of validation loss among those with weights, and what was better without."""
    with_weights = {entry["cell"] for entry in run.cells if _weights_folder(run.folder, entry)}
    ranked = sorted((row for row in rows if row["selected"] and row["engine"] != "none"), key=_valid)
    best = next((row for row in ranked if row["cell"] in with_weights), None)
    if best is None:
        raise InputError(
            "no finished cell has weights on disk", "train again with `run --keep best` into another --out"
        )
    better = ranked[: ranked.index(best)]
    notes = [
        f"better on validation, but its weights were deleted: {_results_of(row)}; `run --keep best` keeps them"
        for row in better
    ]
    return best, tuple(notes)


def _valid(row: Mapping[str, Any]) -> float:
    """Best: the largest fall of NLL on validation, among cells whose weights are there."""
    return row["valid_nll_after"] - row["valid_nll_before"]


def _weights_folder(folder: Path, entry: Mapping[str, Any]) -> Path | None:
    """The folder of a cell's weights, None where they were deleted, or where a saved adapter is gone."""
    if path := entry.get("saved"):
        return Path(path) if Path(path).is_dir() else None
    candidates = (folder / entry["folder"] / name for name in (layout.ADAPTER, layout.WEIGHTS))
    return next((path for path in candidates if path.is_dir()), None)


def _weights(folder: Path, entry: Mapping[str, Any]) -> Path:
    weights = _weights_folder(folder, entry)
    if wrong := manifest.damage(folder / entry["folder"]):
        raise StoreError(
            f"{folder / entry['folder']} is damaged: {manifest.in_words(wrong)}",
            "run the recipe again: it trains this cell again",
        )
    written = manifest.read(folder / entry["folder"])
    if written is None:
        raise StoreError(f"{folder / entry['folder']} has no manifest: it is not finished", "run the recipe again")
    if entry.get("saved"):
        if weights is None or saved_fingerprint(weights) != written.get("identity", {}).get("facts", {}).get("saved"):
            raise StoreError(f"{entry['saved']} is not there as it was scored", "run the recipe again: it scores it")
        return weights
    if weights is not None:
        return weights
    if entry["coordinates"]["method"] == "truncate":
        raise StoreError(
            f"{entry['slug']} is scored and not kept: it is the update of a `full` cell, cut to a rank",
            "export that cell",
        )
    dropped = written.get("facts", {}).get("weights") == "dropped"
    raise StoreError(
        f"{entry['slug']} has no weights on disk"
        + (": weights of full fine-tuning are deleted after scoring" if dropped else ""),
        "train it again with `run --keep best` or `--keep all` into another --out",
    )


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"cannot upload to {repository}: {error}", "log in with `hf auth login`; the files are in " + str(folder)
        ) from error
