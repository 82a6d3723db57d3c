"""A finished cell as something that others load: a PEFT adapter or a merged model, with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.errors import InputError, StoreError
from peftodyssey.methods import saved
from peftodyssey.models.log_filters import quiet
from peftodyssey.store import atomic, layout, manifest
from peftodyssey.store.run_reader import Run, describe_cells, one_row


@dataclass(frozen=True)
class Exported:
    """Where a cell was written, which cell it is with its results, and remarks on what was not taken."""

    folder: Path
    cell: str
    notes: tuple[str, ...] = ()


def export_cell(run: Run, cell: str, *, to: Path | None, merge: bool, push: str | None) -> Exported:
    """Write the weights of one cell and its card to `to`; InputError where the name fits no cell, or several."""
    folder = run.folder
    row, notes = _find(run, cell)
    entry = next(entry for entry in run.cells if (entry["cell"], entry["recipe"]) == (row["cell"], row["recipe"]))
    target = to or folder / "export" / entry["slug"]
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} is not empty", "choose another folder with --to")
    weights = _weights(folder, entry)
    facts: dict[str, Any] = {}
    with atomic.io_errors_as_store_error(target), quiet():
        if merge and weights.name == layout.ADAPTER:
            facts = _merge(row, weights, target)
        else:
            shutil.copytree(weights, target, dirs_exist_ok=True)
    atomic.write_text(target / "README.md", card(row, merged=merge, drift=facts))
    if push:
        _push(target, push)
    return Exported(target, _results_of(row), (*notes, *saved.notes(weights)))


def _results_of(row: Mapping[str, Any]) -> str:
    """A cell with its learning rate, seed and measured changes, in one line."""
    rate = "" if row["lr"] is None else f", lr {row['lr']:g}, seed {row['seed']}"
    forgetting = "" if row["forgetting"] is None else f", forgetting {_change(row, 'forgetting', 'forgetting')}"
    return f"{row['label']} on {row['domain']}{rate}: test {_change(row, 'delta_nll', 'delta')} nats/token{forgetting}"


def _find(run: Run, cell: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The row that a hash, `best` or `column=value,...` names, and remarks on better cells without weights."""
    rows = [row for row in run.results.to_pylist() if row["status"] == "done"]
    if cell == "best":
        return _best(run, rows)
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
    """The folder of a cell's weights, None where they were deleted."""
    candidates = (folder / entry["folder"] / name for name in (layout.ADAPTER, layout.WEIGHTS))
    return next((path for path in candidates if path.is_dir()), None)


def _weights(folder: Path, entry: Mapping[str, Any]) -> Path:
    if (weights := _weights_folder(folder, entry)) is not None:
        return weights
    written = manifest.read(folder / entry["folder"]) or {}
    dropped = written.get("facts", {}).get("weights") == "dropped"
    raise StoreError(
        f"{entry['slug']} has no weights on disk"
        + (": weights of full fine-tuning are deleted after scoring" if dropped else ""),
        "train it again with `run --keep best` or `--keep all` into another --out",
    )


def _merge(row: Mapping[str, Any], adapter: Path, target: Path) -> dict[str, Any]:
    """Merge into unquantised weights and measure what the merge itself changed."""
    from peftodyssey.methods.registry import METHODS
    from peftodyssey.models.load import load
    from peftodyssey.models.source import resolve

    source = resolve(row["model"], row["revision"])
    base = load(source, precision=row["precision"])
    attached = METHODS["saved"].load(base, adapter)
    before = _logits(attached.model)
    merged, facts = METHODS["saved"].merge(attached)
    facts = {**facts, "logit_drift": float((_logits(merged) - before).abs().max())}
    merged.save_pretrained(target, safe_serialization=True)
    if source.tokenizer_folder:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (source.tokenizer_folder / name).is_file():
                shutil.copy(source.tokenizer_folder / name, target / name)
    return facts


def _logits(model: Any) -> Any:
    """Logits on a fixed short sequence, in float32 on the CPU."""
    import torch

    ids = torch.arange(1, 65).remainder(model.config.vocab_size)[None]
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float().cpu()


def card(row: Mapping[str, Any], *, merged: bool, drift: Mapping[str, Any]) -> str:
    """The model card: what it is, what was measured, how to load it."""
    base = row["model"]
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: " + ("transformers" if merged or not row["rank"] else "peft"),
        "tags: [peftodyssey]",
        "---",
        "",
        f"# {row['label']} on {row['domain']}",
        "",
        f"Base: `{base}`" + (f", revision `{row['revision']}`" if row["revision"] else "") + ". "
        f"Trained on {row['tokens']:,} tokens in {row['steps']:,} steps, lr {row['lr']:g}, seed {row['seed']}."
        if row["lr"]
        else f"Base: `{base}`.",
        "",
        "| measured | before | after | change (95 % interval) |",
        "|---|---|---|---|",
        f"| test NLL, nats/token | {row['nll_before']:.4f} | {row['nll_after']:.4f} "
        f"| {_change(row, 'delta_nll', 'delta')} |",
        f"| test perplexity | {row['ppl_before']:.2f} | {row['ppl_after']:.2f} | |",
    ]
    if row["forgetting"] is not None:
        lines.append(
            f"| general NLL, nats/token | {row['general_nll_before']:.4f} | {row['general_nll_after']:.4f} "
            f"| {_change(row, 'forgetting', 'forgetting')} |"
        )
    if row["nll_quantised"] is not None:
        lines.append(f"| test NLL of the quantised base ({row['quant']}) | {row['nll_quantised']:.4f} | | |")
    if drift:
        lines += ["", "The losses above were measured before the merge, with the adapter on its own base."]
        lines += [
            "",
            f"Merged into {drift['stored_as']} weights; the merge moved logits by at most {drift['logit_drift']:.2e}.",
        ]
    loader = (
        "PeftModel.from_pretrained(base, folder)"
        if row["rank"] and not merged
        else "AutoModelForCausalLM.from_pretrained(folder)"
    )
    return "\n".join([*lines, "", f"Load it with `{loader}`.", ""])


def _change(row: Mapping[str, Any], value: str, stem: str) -> str:
    if row[f"{stem}_lo"] is None:
        return f"{row[value]:+.4f} (too few documents for an interval)"
    return f"{row[value]:+.4f} ({row[f'{stem}_lo']:+.4f} to {row[f'{stem}_hi']:+.4f})"


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
