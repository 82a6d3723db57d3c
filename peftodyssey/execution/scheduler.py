"""Executes a plan: finished tasks are skipped, failures are recorded, consecutive tasks share a base in memory.

Order: every index; then, base by base, its own columns and its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from peftodyssey.errors import Interrupted
from peftodyssey.execution import halving
from peftodyssey.execution.cell_line import cell_line
from peftodyssey.execution.clock import Clock
from peftodyssey.execution.outcome import DependencyFailed, Outcome, reason_of
from peftodyssey.execution.pending import (
    finished,
    forget_stale,
    is_complete,
    missing_indexes,
    missing_inputs,
    required_folders,
    standalone_measures,
    training_inputs,
)
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.execution.task_names import task_names
from peftodyssey.execution.weight_sources import after_their_sources, missing_source, release
from peftodyssey.jobs import group_record
from peftodyssey.jobs import index as index_job
from peftodyssey.jobs import score as score_job
from peftodyssey.jobs import train_cell as train_job
from peftodyssey.jobs import train_multi_lora as multi_lora_job
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import BaseHandle
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.models.checkpoint_disk import make_room
from peftodyssey.models.source import ModelSource
from peftodyssey.plan.multi_lora_groups import joint_micro_batch
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, MeasureTask, Plan, ScoreTask
from peftodyssey.plan.work import works
from peftodyssey.store import layout, manifest


def execute(
    plan: Plan, cells: list[CellTask], context: JobContext, progress: ProgressReporter, refresh: bool
) -> Outcome:
    """Execute what is missing of `cells` of `plan`; StoreError ends the run, every other error only a cell."""
    root = context.root
    if refresh:
        forget_stale(cells, root)
    todo = [task for task in cells if not finished(task, root) and halving.stopped(task, root) is None]
    outcome = Outcome(skipped=len(cells) - len(todo))
    runner = _Runner(plan, cells, context, progress, outcome)
    try:
        with progress.showing(runner.count(todo), runner.clock(todo)):
            runner.indexes(todo)
            runner.bases(todo)
        release(cells, root)
    except Interrupted as stop:
        outcome.interrupted = str(stop)
    return outcome


class _BaseInDoubt(Interrupted):
    """A member of a group failed as it was finished and may have left the base changed; the others are saved."""


class _Runner:
    """One pass over the missing tasks; holds the base in memory and the reasons of failed inputs."""

    def __init__(
        self,
        plan: Plan,
        cells: Sequence[CellTask],
        context: JobContext,
        progress: ProgressReporter,
        outcome: Outcome,
    ) -> None:
        self.plan, self.cells, self.context, self.progress, self.outcome = plan, cells, context, progress, outcome
        self.names = outcome.names = task_names(plan)
        self.standalone = standalone_measures(plan, cells, context.root)
        self.root = context.root
        self.models = LoadedModels(context.options.device, plan.budget_bytes, self._free_disk, progress.note)
        self.failures: dict[str, str] = {}  # folder of an index or a column -> why it could not be made
        self.ended: set[str] = set()  # folders of the cells that this start has finished, or that failed

    def _free_disk(self, coming: ModelSource) -> None:
        """Before a model is downloaded, with --checkpoint-disk: delete models that no task needs any more."""
        if self.context.options.checkpoint_disk_bytes is not None:
            for name in make_room(self.root, coming, self.context.options.checkpoint_disk_bytes):
                self.progress.note(f"{name} is not needed any more and was deleted from the disk (--checkpoint-disk)")

    def count(self, todo: list[CellTask]) -> int:
        """How many tasks are to be done."""
        return (
            len(self._missing_indexes(todo))
            + len(missing_inputs(self.plan, todo, self.root))
            + len(self.standalone)
            + len(todo)
        )

    def _missing_indexes(self, todo: list[CellTask]) -> list[IndexTask]:
        read_by_the_report = (folder for task in self.cells for folder in task.reads)  # no cell needs these
        return missing_indexes(self.plan, todo, self.standalone, read_by_the_report, self.root)

    def clock(self, todo: list[CellTask]) -> Clock:
        """The work of the tasks that are to be done."""
        folders = [task.folder for task in (*missing_inputs(self.plan, todo, self.root), *self.standalone, *todo)]
        return Clock(works(self.plan), folders, self.root / layout.TIMES, self.plan.device.name)

    def indexes(self, todo: list[CellTask]) -> None:
        """Tokenise what is not."""
        for task in self._missing_indexes(todo):
            self._prepare_input(task.folder, partial(self._index, task))

    def bases(self, todo: list[CellTask]) -> None:
        """Base by base: its own columns, then its cells."""
        columns, order = missing_inputs(self.plan, todo, self.root), self.plan.base_order
        for base in sorted(
            {task.base.identifier for task in [*columns, *self.standalone, *todo]}, key=order.__getitem__
        ):
            for column in columns:
                if column.base.identifier == base:
                    self._prepare_input(column.folder, partial(self._of_base, column))
            self._standalone_measures([task for task in self.standalone if task.base.identifier == base])
            of_base = [task for task in self.cells if task.base.identifier == base]
            self._run_halving_rounds(of_base)
            self._cells([t for t in of_base if not finished(t, self.root) and halving.stopped(t, self.root) is None])
        self.models.drop()

    def _cells(self, tasks: list[CellTask]) -> None:
        """Run cells to their ends, by multi-LoRA where that is possible."""
        todo = [task for task in tasks if not is_complete(task.folder, self.root)]
        tasks = after_their_sources(tasks)
        groups = group_record.groups(self.plan, todo, 1.0, self.root)
        group_of = {task.folder: group for group in groups for task in group}
        for task in tasks:
            if group := group_of.get(task.folder):
                self._train_group(group)
                for member in group:
                    del group_of[member.folder]
            if task.folder not in self.ended:
                self._cell(task, partial(self._adapt, task))
            release([other for other in tasks if other.folder == task.source], self.root)

    def _run_halving_rounds(self, cells: list[CellTask]) -> None:
        """Cells of which some are stopped early, up to the last evaluation at which they are compared."""
        unfinished = [
            group
            for group in halving.tuning_groups(cells)
            if any(not finished(task, self.root) and not halving.stopped(task, self.root) for task in group)
        ]
        by_points: dict[tuple[tuple[int, float], ...], list[halving.TuningGroup]] = {}
        for group in unfinished:
            by_points.setdefault(tuple(halving.points(group).items()), []).append(group)
        for points, groups in by_points.items():
            for eval_index, share in points:
                active = [task for group in groups for task in halving.still_active(group, eval_index, self.root)]
                self._advance(active, eval_index, share)
                before = {task.folder for group in groups for task in group if halving.stopped(task, self.root)}
                for task in (task for group in groups for task in halving.prune_trailing(group, eval_index, self.root)):
                    if task.folder not in before:
                        self.outcome.stopped += 1
                        self.progress.finished(self.names[task.folder], "stopped", folder=task.folder)

    def _advance(self, active: list[CellTask], eval_index: int, share: float) -> None:
        """Train cells up to an evaluation, by multi-LoRA where that is possible."""

        def behind() -> list[CellTask]:
            return [
                task
                for task in active
                if halving.not_reached(task, eval_index, self.root) and not self._failed_dependency(task)
            ]

        for group in group_record.groups(self.plan, behind(), share, self.root):
            self._train_group(group, share)
        for task in behind():
            self._stop_if_asked()
            self.progress.task(f"{self.names[task.folder]} to {share:.0%}", task.folder)
            if why := reason_of(partial(self._train_until, task, share)):
                self.failures[task.folder] = why
                self.models.drop()

    def _train_until(self, task: CellTask, share: float) -> None:
        train_job.train_until(task, share, self.models.get(task.base), self.models.tokenizer(task.base), self.context)

    def _prepare_input(self, folder: str, act: Callable[[], None]) -> None:
        """Make an input of cells: if that fails, they fail with its reason."""
        self._stop_if_asked()
        self.progress.task(self.names[folder], folder)
        why = reason_of(act)
        if why:
            self.failures[folder] = why
        else:
            self.outcome.inputs += 1
        facts = (manifest.read(self.root / folder) or {}).get("facts") or {}  # a column's seconds are without loading
        self.progress.finished(
            self.names[folder], "failed" if why else "done", folder=folder, seconds=facts.get("seconds")
        )

    def _index(self, task: IndexTask) -> None:
        tokenizer = self.models.tokenizer(BaseModelKey(task.tokenizer_source, "fp32", None))
        index_job.index(task, self.root, tokenizer)

    def _of_base(self, task: ScoreTask | MeasureTask) -> None:
        """A column of a base model, or a task of a measure on it."""
        needs = (task.index,) if isinstance(task, ScoreTask) else task.needs
        if failed := [self.failures[folder] for folder in needs if folder in self.failures]:
            raise DependencyFailed(failed[0])
        if isinstance(task, MeasureTask):
            self.context.measures[task.measure].run(task, BaseHandle(task.base, self.models), self.context)
            return
        model, tokenizer = self.models.get(task.base), self.models.tokenizer(task.base)
        score_job.score_base_and_write(task, model, tokenizer.prefix_id, self.context)

    def _standalone_measures(self, tasks: Sequence[MeasureTask]) -> None:
        """Tasks on a base model that no cell needs: where one fails nothing else does, and the run says so."""
        for task in tasks:
            self._prepare_input(task.folder, partial(self._of_base, task))
            if task.folder in self.failures:
                self.outcome.failed[task.folder] = self.failures[task.folder]
                self.progress.say(f"  {self.failures[task.folder]}")
                self.models.drop()

    def _train_group(self, group: Sequence[CellTask], share: float = 1.0) -> None:
        """Train some cells together and finish each as it ends; if that is not possible, each continues alone."""
        self._stop_if_asked()
        members = [task for task in group if not self._failed_dependency(task)]
        if len(members) < max(1, min(2, len(group))):
            return
        try:
            why = reason_of(partial(self._train_members, members, share))
        except _BaseInDoubt:
            self._train_group([task for task in members if task.folder not in self.ended], share)
            return
        if why:
            self.progress.say(f"  these {len(members)} cells cannot train together and continue one by one: {why}")
            self.models.drop()

    def _train_members(self, members: Sequence[CellTask], share: float) -> None:
        base, tokenizer = self.models.get(members[0].base), self.models.tokenizer(members[0].base)
        micro_batch_size = joint_micro_batch(self.plan, members)

        def show() -> None:
            left = [task.folder for task in members if task.folder not in self.ended]
            if left:
                self.progress.multi_lora(left, members[0].cell.method.method, share)

        def on_end(ended: Sequence[tuple[CellTask, Callable[[], None]]]) -> None:
            for task, finish in ended:
                self._cell(task, finish)
                if task.folder in self.outcome.failed:
                    raise _BaseInDoubt(f"{self.names[task.folder]} failed", "the others resume on a base loaded afresh")
            show()

        show()
        self.failures |= multi_lora_job.train_multi_lora(
            members, micro_batch_size, share, base, tokenizer, self.context, on_end
        )

    def _failed_dependency(self, task: CellTask) -> str:
        """The error of a cell's inputs, or of its training with others; "" where nothing failed."""
        folders = (task.folder, *training_inputs(task), *required_folders(task))
        return next((self.failures[folder] for folder in folders if folder in self.failures), "")

    def _cell(self, task: CellTask, act: Callable[[], None]) -> None:
        """Do all of a cell by `act`, or what is left of it, and report it."""
        self._stop_if_asked()
        name = self.names[task.folder]
        self.progress.task(name, task.folder)
        was_complete = is_complete(task.folder, self.root)
        why = self._failed_dependency(task) or reason_of(act)
        self.ended.add(task.folder)
        if why:
            if not (was_complete and is_complete(task.folder, self.root)):  # it keeps its weights if a column fails
                manifest.prepare_dir(self.root / task.folder)
                manifest.fail(self.root / task.folder, why, task.folder)
            self.outcome.failed[task.folder] = why
            self.progress.say(f"  {why}")
            self.models.drop()  # whatever went wrong may have left the base changed
        else:
            self.outcome.done += 1
        line = "" if why else cell_line(task, self.root, self.progress.seconds_beside_steps)
        self.models.give_back()
        self.progress.finished(name, "failed" if why else "done", line, task.folder)

    def _adapt(self, task: CellTask) -> None:
        if source := missing_source(task, self.plan, self.root):
            if why := self.outcome.failed.get(source.folder):
                raise DependencyFailed(why)
            self._adapt(source)
        train_job.adapt(task, self.models.get(task.base), self.models.tokenizer(task.base), self.context)

    def _stop_if_asked(self) -> None:
        if self.progress.should_stop():
            raise Interrupted("stopped between tasks", "start the same command again: it resumes")
