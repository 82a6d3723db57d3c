"""Executes a plan: finished tasks are skipped, failures are recorded, consecutive tasks share a base in memory.

Order: every index; then, base by base, its own columns and its cells.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from peftodyssey.errors import Interrupted, OdysseyError, StoreError
from peftodyssey.execution import halving
from peftodyssey.execution.outcome import DependencyFailed, Outcome
from peftodyssey.execution.pending import finished, forget_stale, matches, required_folders, training_inputs
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.jobs import hidden_states as states_job
from peftodyssey.jobs import index as index_job
from peftodyssey.jobs import multiple_choice as choices_job
from peftodyssey.jobs import score as score_job
from peftodyssey.jobs import train_cell as train_job
from peftodyssey.jobs import train_multi_lora as multi_lora_job
from peftodyssey.jobs import weight_noise as perturb_job
from peftodyssey.jobs.cell_inputs import weights_of
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.models.checkpoint_disk import make_room
from peftodyssey.models.source import ModelSource
from peftodyssey.plan.multi_lora_groups import group_cells, joint_micro_batch
from peftodyssey.plan.tasks import BaseModelKey, CellTask, ChoiceTask, HiddenStatesTask, NoiseTask, Plan, ScoreTask
from peftodyssey.store import manifest

StandaloneMeasurement = NoiseTask | HiddenStatesTask  # what the report wants and no cell stands on


def execute(
    plan: Plan, context: JobContext, narrator: ProgressReporter, only: Mapping[str, str], refresh: bool
) -> Outcome:
    """Does what of `plan` is missing; StoreError ends the run, every other error only a cell."""
    root = context.root
    cells = [task for task in plan.cells if matches(task, only)]
    if refresh:
        forget_stale(cells, root)
    todo = [task for task in cells if not finished(task, root) and halving.stopped(task, root) is None]
    outcome = Outcome(skipped=len(cells) - len(todo))
    beside = [*states_job.missing(plan, cells, root), *perturb_job.missing(plan, cells, root)]
    walk = _Runner(plan, context, narrator, outcome, beside)
    try:
        with narrator.showing(walk.count(todo)):
            walk.indexes(todo)
            walk.bases(cells, todo)
    except Interrupted as stop:
        outcome.interrupted = str(stop)
    return outcome


class _Runner:
    """One pass over the missing tasks; holds the base in memory and the reasons of failed inputs."""

    def __init__(
        self,
        plan: Plan,
        context: JobContext,
        narrator: ProgressReporter,
        outcome: Outcome,
        beside: Sequence[StandaloneMeasurement],
    ) -> None:
        self.plan, self.context, self.narrator, self.outcome, self.beside = plan, context, narrator, outcome, beside
        self.root = context.root
        self.models = LoadedModels(context.options.device, plan.budget_bytes, self._free_disk, narrator.note)
        self.failures: dict[str, str] = {}  # folder of an index or a column -> why it could not be made

    def _free_disk(self, coming: ModelSource) -> None:
        """Before a model is downloaded: with --checkpoint-disk, those that are done with make room for it."""
        if self.context.options.checkpoint_disk_bytes is not None:
            for name in make_room(self.root, coming, self.context.options.checkpoint_disk_bytes):
                self.narrator.note(f"{name} is done with and dropped from the disk (--checkpoint-disk)")

    def count(self, todo: list[CellTask]) -> int:
        """How many tasks are to be done."""
        return len(self._missing_indexes(todo)) + len(self._missing_columns(todo)) + len(self.beside) + len(todo)

    def indexes(self, todo: list[CellTask]) -> None:
        """Tokenise what is not."""
        for folder in self._missing_indexes(todo):
            task = next(index for index in self.plan.indexes if index.folder == folder)
            key = BaseModelKey(task.tokenizer_source, "fp32", None)
            self._prepare_input(
                folder, lambda task=task, key=key: index_job.index(task, self.root, self.models.tokenizer(key))
            )

    def bases(self, cells: list[CellTask], todo: list[CellTask]) -> None:
        """Base by base: its own columns, then its cells."""
        columns, order = self._missing_columns(todo), self.plan.base_order
        for base in sorted({task.base.identifier for task in [*columns, *self.beside, *todo]}, key=order.__getitem__):
            for column in columns:
                if column.base.identifier == base:
                    self._prepare_input(column.folder, lambda column=column: self._column(column))
            self._run_standalone_measurements([task for task in self.beside if task.base.identifier == base])
            self._run_halving_rounds([task for task in cells if task.base.identifier == base])
            self._cells(
                [
                    t
                    for t in cells
                    if t.base.identifier == base
                    and not finished(t, self.root)
                    and halving.stopped(t, self.root) is None
                ]
            )
        self.models.drop()

    def _cells(self, tasks: list[CellTask]) -> None:
        """Run cells to their ends, by multi-LoRA where that is possible."""
        groups = group_cells(self.plan, [task for task in tasks if not self._is_complete(task.folder)])
        group_of = {task.folder: group for group in groups for task in group}
        for task in tasks:
            if group := group_of.get(task.folder):
                self._train_group(group)
                for member in group:
                    del group_of[member.folder]
            self._cell(task)

    def _run_halving_rounds(self, cells: list[CellTask]) -> None:
        """Cells of which some are stopped early, up to the last point at which they are compared."""
        left = [
            c
            for c in halving.tuning_groups(cells)
            if any(not finished(t, self.root) and not halving.stopped(t, self.root) for t in c)
        ]
        by_shares: dict[tuple[float, ...], list[halving.TuningGroup]] = {}
        for contest in left:
            by_shares.setdefault(halving.shares(contest), []).append(contest)
        for shares, competing in by_shares.items():
            for point, share in enumerate(shares):
                racing = [task for contest in competing for task in halving.still_active(contest, point, self.root)]
                self._advance(racing, point, share)
                before = {task.folder for contest in competing for task in contest if halving.stopped(task, self.root)}
                for task in (
                    task for contest in competing for task in halving.prune_trailing(contest, point, self.root)
                ):
                    if task.folder not in before:
                        self.outcome.stopped += 1
                        self.narrator.finished(task.folder.split("/", 1)[1], "stopped")

    def _advance(self, racing: list[CellTask], point: int, share: float) -> None:
        """Train cells up to an evaluation, by multi-LoRA where that is possible."""

        def behind() -> list[CellTask]:
            return [
                task
                for task in racing
                if halving.not_reached(task, point, self.root) and not self._failed_dependency(task)
            ]

        for group in group_cells(self.plan, behind()):
            self._train_group(group, share)
        for task in behind():
            self._stop_if_asked()
            self.narrator.task(f"{task.folder.split('/', 1)[1]} to {share:.0%}")
            if why := self._error_of(lambda task=task: self._train_until(task, share)):
                self.failures[task.folder] = why
                self.models.drop()

    def _train_until(self, task: CellTask, share: float) -> None:
        base, tokenizer = self.models.get(task.base), self.models.tokenizer(task.base)
        train_job.train_until(task, share, base, tokenizer, self.context)

    def _missing_indexes(self, todo: list[CellTask]) -> list[str]:
        training = [task for task in todo if task.train_index and manifest.read(self.root / task.folder) is None]
        wanted = {folder for task in training for folder in training_inputs(task)}
        wanted |= {folder for task in todo for folder in required_folders(task) if folder.startswith("corpora/")}
        wanted |= {task.index for task in (*self.beside, *(update for cell in todo for update in cell.update_noise))}
        wanted |= {task.entry.get("sample_index") for task in self.plan.cells}  # no cell stands on it, the report does
        return [
            index.folder
            for index in self.plan.indexes
            if index.folder in wanted and not self._is_complete(index.folder)
        ]

    def _missing_columns(self, todo: list[CellTask]) -> list[ScoreTask | ChoiceTask]:
        wanted = {folder for task in todo for folder in required_folders(task)}
        every = (*self.plan.base_scores, *self.plan.base_choices)
        return [column for column in every if column.folder in wanted and not self._is_complete(column.folder)]

    def _is_complete(self, folder: str) -> bool:
        return manifest.read(self.root / folder) is not None

    def _prepare_input(self, folder: str, act: Callable[[], None]) -> None:
        """Something that cells stand on: if it fails, they fail with its reason."""
        self._stop_if_asked()
        self.narrator.task(folder)
        why = self._error_of(act)
        if why:
            self.failures[folder] = why
        else:
            self.outcome.inputs += 1
        self.narrator.finished(folder, "failed" if why else "done")

    def _column(self, task: ScoreTask | ChoiceTask) -> None:
        if isinstance(task, ScoreTask) and task.index in self.failures:
            raise DependencyFailed(self.failures[task.index])
        model, tokenizer = self.models.get(task.base), self.models.tokenizer(task.base)
        if isinstance(task, ChoiceTask):
            choices_job.score_and_write(task, model, tokenizer, self.context)
            return
        score_job.score_base_and_write(task, model, tokenizer.prefix_id, self.context)

    def _run_standalone_measurements(self, tasks: Sequence[StandaloneMeasurement]) -> None:
        """States of texts and noise of a base's weights: where one fails nothing else does, and the run says so."""
        for task in tasks:
            self._prepare_input(folder := task.folder, lambda task=task: self._measure(task))
            if folder in self.failures:
                self.outcome.failed[folder] = self.failures[folder]
                self.narrator.say(f"  {self.failures[folder]}")
                self.models.drop()

    def _measure(self, task: StandaloneMeasurement) -> None:
        if task.index in self.failures:
            raise DependencyFailed(self.failures[task.index])
        if isinstance(task, HiddenStatesTask):
            states_job.write_states(task, self.models, self.context)
            return
        perturb_job.perturb(task, self.models, self.context)

    def _train_group(self, group: Sequence[CellTask], share: float = 1.0) -> None:
        """Train some cells together; if that is not possible, each continues alone from its own state."""
        self._stop_if_asked()
        sound = [task for task in group if not self._failed_dependency(task)]
        if len(sound) < 2:
            return
        self.narrator.multi_lora(len(sound), sound[0].cell.method.method, share)
        base, tokenizer = self.models.get(sound[0].base), self.models.tokenizer(sound[0].base)
        micro_batch_size = joint_micro_batch(self.plan, sound)
        failed: dict[str, str] = {}
        why = self._error_of(
            lambda: failed.update(
                multi_lora_job.train_multi_lora(sound, micro_batch_size, share, base, tokenizer, self.context)
            )
        )
        if why:
            self.narrator.say(f"  these {len(sound)} cells cannot train together and continue one by one: {why}")
            self.models.drop()
        self.failures |= failed

    def _failed_dependency(self, task: CellTask) -> str:
        """The error of a cell's inputs, or of its training with others; "" where nothing failed."""
        return next(
            (
                self.failures[folder]
                for folder in (task.folder, *training_inputs(task), *required_folders(task))
                if folder in self.failures
            ),
            "",
        )

    def _cell(self, task: CellTask) -> None:
        self._stop_if_asked()
        self.narrator.task(task.folder.split("/", 1)[1])
        whole = self._is_complete(task.folder)
        why = self._failed_dependency(task) or self._error_of(lambda: self._adapt(task))
        if why:
            if not whole or not self._is_complete(
                task.folder
            ):  # a cell that was finished keeps its weights where a column fails
                manifest.prepare_dir(self.root / task.folder)
                manifest.fail(self.root / task.folder, why, task.folder)
            self.outcome.failed[task.folder] = why
            self.narrator.say(f"  {why}")
            self.models.drop()  # whatever went wrong may have left the base changed
        else:
            self.outcome.done += 1
        self.narrator.finished(task.folder.split("/", 1)[1], "failed" if why else "done")

    def _adapt(self, task: CellTask) -> None:
        base, tokenizer = self.models.get(task.base), self.models.tokenizer(task.base)
        trained = manifest.read(self.root / task.folder) is not None
        job = train_job.rescore if trained and weights_of(task, self.root) else train_job.train_cell
        job(task, base, tokenizer, self.context)

    def _error_of(self, act: Callable[[], None]) -> str:
        """ "" where `act` worked, else why not; a broken store and the user's wish to stop end the run."""
        try:
            act()
        except (Interrupted, StoreError, KeyboardInterrupt):
            raise
        except OdysseyError as error:
            return str(error)
        except Exception as error:  # one cell's failure, whatever it is, must not cost the night: it is recorded
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return ""

    def _stop_if_asked(self) -> None:
        if self.narrator.should_stop():
            raise Interrupted("stopped between tasks", "start the same command again: it resumes")
