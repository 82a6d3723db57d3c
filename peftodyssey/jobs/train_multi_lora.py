"""Job: train several cells over one base together, each to its own end.

Every member has the checkpoints of a training of its own, so that killed in between each resumes. A member is finished
as it ends, from its weights in memory, while the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from peftodyssey.errors import DoesNotFit, Interrupted, TrainingError
from peftodyssey.jobs import eval_callback, group_record, progress_file, score, self_check
from peftodyssey.jobs.cell_inputs import sequences_of, settings_of, stem_of, truncate
from peftodyssey.jobs.context import START_AGAIN, JobContext
from peftodyssey.jobs.finish import Trained, finish
from peftodyssey.jobs.handle import cell_handle
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.jobs.self_check import SelfCheck
from peftodyssey.jobs.train_cell import on_step_of, require_weights_changed, started_check
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask, ScoreTask
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.store import layout, manifest
from peftodyssey.training.settings import TrainCallbacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.multi_lora.adapters import Adapter
    from peftodyssey.multi_lora.trainer import Member

Checks = dict[str, SelfCheck]  # by the cell's folder
OnEnd = Callable[[Sequence[tuple[CellTask, Callable[[], None]]]], None]  # cells that ended, and what finishes each


def train_multi_lora(
    tasks: Sequence[CellTask],
    micro_batch_size: int,
    share: float,
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    context: JobContext,
    on_end: OnEnd,
) -> dict[str, str]:
    """Trains `tasks` together up to a share of their budgets; gives why members diverged, by folder.

    `micro_batch_size`: sequences of each member in one pass. With the whole budget (`share` 1), members that end after
    the same step are scored together, each text that they have in common in one pass, and then `on_end` is called with
    them and what saves, scores, measures and commits each. Every member's state is saved by then: `on_end` may raise.
    `base` is there, and at the end, what it was before. Raises TrainingError where nothing fits the memory,
    Interrupted where the user stops.
    """
    import torch

    from peftodyssey.models import host_memory
    from peftodyssey.multi_lora.trainer import train_adapters

    options, callbacks = context.options, context.callbacks
    checks, loaded = Checks(), (base, tokenizer)
    members = [_member(task, micro_batch_size, share, loaded, context, checks) for task in tasks]
    longest = max(members, key=lambda member: member.settings.steps)
    for member, task in zip(members, tasks, strict=True):
        member.on_step = on_step_of(task, member.settings, context, report=member is longest)
    task_of = {id(member): task for member, task in zip(members, tasks, strict=True)}

    def note_peak(ended: Sequence[Member]) -> None:
        group = replace(record, peak_memory_bytes=max(record.peak_memory_bytes, peak.peak_bytes))
        for member in ended:
            group_record.write(context.root / task_of[id(member)].folder, group)

    def end(ended: Sequence[Member]) -> None:
        with peak.paused():
            note_peak(ended)
            if share < 1:
                return
            pairs = [(task_of[id(member)], member) for member in ended]
            _score(pairs, base, tokenizer, context)
            on_end([(t, partial(_finish, t, m, peak.peak_bytes, loaded, checks, context)) for t, m in pairs])
            host_memory.release_memory(torch.device(options.device))  # later steps have what the plan gives them

    with group_record.recorded(tasks, share, context.root) as record, track_peak(options.device) as peak:
        finished = train_adapters(
            base,
            members,
            device=options.device,
            checkpoint_every_s=options.checkpoint_every_s,
            callbacks=TrainCallbacks(should_stop=callbacks.should_stop, on_note=callbacks.note),
            on_end=end,
        )
    if not finished:
        note_peak([member for member in members if not member.done])
        done = min(len(member.log) for member in members if not member.done)
        raise Interrupted(f"{len(tasks)} cells that train together stopped after step {done}", START_AGAIN)
    return {task_of[id(member)].folder: str(member.failed) for member in members if member.failed}


def _finish(
    task: CellTask,
    member: Member,
    peak_bytes: int,
    loaded: tuple[PreTrainedModel, TextTokenizer],
    checks: Checks,
    context: JobContext,
) -> None:
    """Saves, scores, measures and commits one member; the base is afterwards what it was before."""
    from peftodyssey.multi_lora.adapters import copy_adapter_into

    with cell_handle(task, *loaded) as handle:
        attached = handle.adapted()
        copy_adapter_into(member.weights, attached.model)
        require_weights_changed(task, attached)
        trained = Trained(member.result(), peak_bytes, member.settings.steps, checks.get(task.folder))
        finish(task, handle, trained, context)


def _score(
    ended: Sequence[tuple[CellTask, Member]], base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext
) -> None:
    """Fills the columns of trained members, all of them at a time on each text that they have in common."""
    import torch

    from peftodyssey.multi_lora.linear import attach_adapters_for_eval
    from peftodyssey.training.grad_accumulation import AUTOCAST_DTYPES

    adapters = [member.weights for _, member in ended]
    tasks, device = [task for task, _ in ended], torch.device(context.options.device)
    for columns in _common_columns(tasks, context):
        numbers = sorted(columns)
        compute = AUTOCAST_DTYPES.get(tasks[0].base.precision)
        try:
            with attach_adapters_for_eval(base, [adapters[n] for n in numbers], device, compute) as order:
                results = score.scored_adapters(columns[numbers[0]], len(numbers), base, tokenizer.prefix_id, context)
        except (DoesNotFit, TrainingError) as error:  # of one member perhaps: alone each is scored, or fails, by itself
            context.callbacks.note(f"these {len(numbers)} cells are scored one by one: {error}")
            continue
        for place, result in zip(order, results, strict=True):
            score.commit(columns[numbers[place]], context.root, tokenizer.prefix_id, result)


def _common_columns(tasks: Sequence[CellTask], context: JobContext) -> list[dict[int, ScoreTask]]:
    """The missing columns, those of one text and one scoring together, by the number of their cell."""
    columns: dict[tuple[str, ScoreSpec], dict[int, ScoreTask]] = {}
    for number, task in enumerate(tasks):
        for column in task.columns:
            if manifest.read(context.root / column.folder) is None:
                columns.setdefault((column.index, column.settings), {})[number] = column
    return list(columns.values())


def _member(
    task: CellTask,
    micro_batch_size: int,
    share: float,
    loaded: tuple[PreTrainedModel, TextTokenizer],
    context: JobContext,
    checks: Checks,
) -> Member:
    from peftodyssey.multi_lora.adapters import adapter_of, copy_adapter_into
    from peftodyssey.multi_lora.trainer import Member
    from peftodyssey.training.loop import resume_digest, stem_digest

    base, tokenizer = loaded
    if context.options.self_check:
        self_check.remember_base(base)
    sequences = sequences_of(task, context.root, tokenizer)
    settings = replace(
        truncate(settings_of(task, sequences.target_sequences), share),
        micro_batch_size=micro_batch_size,
        budget_bytes=context.options.resident_bytes,
    )
    folder = manifest.prepare_dir(context.root / task.folder, keep=(layout.CHECKPOINT,))
    progress_file.note_repeated_work(folder, context.callbacks)
    with cell_handle(task, base, tokenizer) as handle:
        attached = handle.adapted()
        start, digest = adapter_of(attached.model), resume_digest(attached.trainable, sequences, settings)
        if (check := started_check(task, attached, context)) is not None:
            checks[task.folder] = check
        of_stem = stem_digest(attached.trainable, sequences, settings) if task.stem else ""

    def on_eval(index: int, step: int, tokens: int, adapter: Adapter) -> None:
        with cell_handle(task, base, tokenizer) as handle:
            model = handle.adapted().model
            copy_adapter_into(adapter, model)
            eval_callback.EvalCallback(task, model, tokenizer.prefix_id, context)(index, step, tokens)

    return Member(
        settings,
        sequences,
        start,
        folder / layout.CHECKPOINT,
        digest,
        stem=stem_of(task, context.root),
        stem_digest=of_stem,
        on_eval=on_eval,
    )
