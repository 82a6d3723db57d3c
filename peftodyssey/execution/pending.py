"""What of a plan is left to do: which cells are requested, which are complete, and which results each needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from peftodyssey.execution.weight_sources import to_train
from peftodyssey.jobs import cell_inputs
from peftodyssey.plan.tasks import CellTask, IndexTask, MeasureTask, Plan, ScoreTask
from peftodyssey.store import manifest
from peftodyssey.store.run_reader import is_value
from peftodyssey.store.versions import versions

REFRESHED_BY = ("torch", "transformers", "peft", "bitsandbytes", "trl", "peftodyssey")


def matches(task: CellTask, only: Mapping[str, str]) -> bool:
    """Whether a cell's coordinates are those that `--only` names."""
    coordinates = task.entry["coordinates"]
    return all(is_value(coordinates.get(key), value) for key, value in only.items())


def finished(task: CellTask, root: Path) -> bool:
    """Whether the cell and everything that its row is made of are whole, and its measures as far as they can be."""
    if any(manifest.read(root / folder) is None for folder in (task.folder, *required_folders(task))):
        return False
    left = [measure for measure in task.measures if manifest.read(root / measure.folder) is None]
    return not left or cell_inputs.weights_of(task, root) is None  # nothing is left to measure them from


def is_complete(folder: str, root: Path) -> bool:
    """Whether the result of a folder is whole."""
    return manifest.read(root / folder) is not None


def required_folders(task: CellTask) -> Iterator[str]:
    """The folders of texts, columns and tasks that a cell's row is made of."""
    yield from task.required
    yield from (column.folder for column in task.columns)
    yield from (measure.folder for measure in task.measures if measure.retrain)


def standalone_measures(plan: Plan, cells: Iterable[CellTask], root: Path) -> list[MeasureTask]:
    """The tasks on base models that the report reads beside `cells`, finished or not, and that are not there yet."""
    wanted = {folder for task in cells for folder in task.reads}
    return [one for one in plan.measures if one.folder in wanted and manifest.read(root / one.folder) is None]


def missing_indexes(
    plan: Plan, todo: Sequence[CellTask], standalone: Sequence[MeasureTask], read: Iterable[str], root: Path
) -> list[IndexTask]:
    """The texts to tokenise for the cells `todo`, for tasks of measures, and for the folders `read` by the report.

    Those from which others are kept apart come first.
    """
    training = to_train(plan, todo, root)
    wanted = {folder for task in training for folder in training_inputs(task)}
    wanted |= {folder for task in (*todo, *training) for folder in required_folders(task)}
    wanted |= {need for task in (*standalone, *(one for cell in todo for one in cell.measures)) for need in task.needs}
    wanted |= set(read) | {index.folder for index in plan.indexes if manifest.damage(root / index.folder)}
    missing = [index for index in plan.indexes if manifest.read(root / index.folder) is None]
    needed = {folder for index in missing if index.folder in wanted for folder in index.apart_from}
    todo_indexes = [index for index in missing if index.folder in wanted | needed]
    return sorted(todo_indexes, key=lambda index: bool(index.apart_from))


def missing_inputs(plan: Plan, todo: Iterable[CellTask], root: Path) -> list[ScoreTask | MeasureTask]:
    """What the cells `todo` need of base models and is not there: columns, and tasks of measures."""
    wanted = {folder for task in todo for folder in required_folders(task)}
    every: tuple[ScoreTask | MeasureTask, ...] = (*plan.base_scores, *plan.measures)
    return [one for one in every if one.folder in wanted and manifest.read(root / one.folder) is None]


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
            folders = [column.folder for column in task.columns] + [measure.folder for measure in task.measures]
            for folder in folders:
                manifest.prepare_dir(root / folder)
            if task.stem:
                manifest.remove(root / task.stem.folder)


def forget_damaged(cells: Sequence[CellTask], root: Path) -> Iterator[str]:
    """Forget what was made from damaged weights; yields a line for each damaged folder that `cells` need.

    A damaged folder counts as not there, so that it is made again. Columns and measures of a cell that is trained
    again are those of its new weights.
    """
    inputs = {folder for task in cells for folder in (*training_inputs(task), *required_folders(task), *task.reads)}
    own = {task.folder: task for task in cells}
    for folder in sorted(inputs | set(own) | {measure.folder for task in cells for measure in task.measures}):
        if not (wrong := manifest.damage(root / folder)):
            continue
        yield f"{folder} is damaged and is made again: {manifest.in_words(wrong)}"
        if (task := own.get(folder)) is not None and task.train_index:
            for made in (*(column.folder for column in task.columns), *(one.folder for one in task.measures)):
                manifest.prepare_dir(root / made)
