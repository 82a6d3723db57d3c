"""What of a plan is left to do: which cells are requested, which are complete, and which results each needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from peftodyssey.jobs import cell_inputs
from peftodyssey.jobs import geometry as geometry_job
from peftodyssey.jobs import weight_noise as perturb_job
from peftodyssey.plan.tasks import CellTask, ChoiceTask, ScoreTask
from peftodyssey.store import manifest
from peftodyssey.store.run_reader import is_value
from peftodyssey.store.versions import versions

REFRESHED_BY = ("torch", "transformers", "peft", "bitsandbytes", "trl", "peftodyssey")


def matches(task: CellTask, only: Mapping[str, str]) -> bool:
    """Whether a cell's coordinates are those that `--only` names."""
    coordinates = task.entry["coordinates"]
    return all(is_value(coordinates.get(key), value) for key, value in only.items())


def finished(task: CellTask, root: Path) -> bool:
    """Whether the cell, the columns that its row is computed from, and measurements of its update are complete."""
    folders = [task.folder, *(folder for folder in required_folders(task))]
    if any(manifest.read(root / folder) is None for folder in folders):
        return False
    missing = geometry_job.is_missing(task, root) or perturb_job.missing_updates(task, root)
    return not missing or cell_inputs.weights_of(task, root) is None  # nothing is left to measure them from


def required_folders(task: CellTask) -> Iterator[str]:
    """The folders of the texts and columns that a cell's row is computed from."""
    scores = task.entry["scores"]
    for text in (scores["test"], scores["valid"], *scores["general"], *task.entry.get("transfer", ())):
        yield from (text[name] for name in ("index", "before", "quantised", "after") if text[name])
    for questions in task.entry.get("tasks", ()):
        yield from (questions[name] for name in ("before", "quantised", "after") if questions[name])
    for share in task.entry.get("wise", ()):
        yield from (share["test"], share["valid"], *share["general"])


def training_inputs(task: CellTask) -> list[str]:
    """The indexes that a training reads, other than those of its columns."""
    folders = (task.train_index, task.replay_index, task.early_stop_eval.index if task.early_stop_eval else None)
    return [folder for folder in folders if folder]


def forget_stale(cells: list[CellTask], root: Path) -> None:
    """Remove the manifests of cells that other library versions computed, so that they are computed again."""
    now = versions()
    for task in cells:
        recorded = (manifest.read(root / task.folder) or {}).get("facts", {}).get("versions")
        if recorded is not None and any(recorded.get(name) != now.get(name) for name in REFRESHED_BY):
            manifest.prepare_dir(root / task.folder)
            columns: tuple[ScoreTask | ChoiceTask, ...] = (
                *task.columns,
                *task.wise_ft_scores,
                *task.choices,
                *(update.score for update in task.update_noise),
            )
            for column in columns:
                manifest.prepare_dir(root / column.folder)
            if task.geometry_folder:
                manifest.prepare_dir(root / task.geometry_folder)
