"""Job: train several cells over one base together, each to its own end.

Every member has the checkpoints of a training of its own, so that killed in between each resumes. What was trained is
handed over in memory: `finish_member` saves, scores and commits one member.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from peftodyssey.errors import Interrupted
from peftodyssey.jobs import eval_callback, progress_file, score
from peftodyssey.jobs.cell_inputs import sequences_of, settings_of, truncate
from peftodyssey.jobs.context import START_AGAIN, JobContext
from peftodyssey.jobs.finish import Trained, finish
from peftodyssey.jobs.handle import cell_handle
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.jobs.train_cell import on_step_of, require_weights_changed
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask, ScoreTask
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.store import atomic, layout, manifest
from peftodyssey.training.settings import TrainCallbacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.multi_lora.adapters import Adapter
    from peftodyssey.multi_lora.trainer import Member


@dataclass(frozen=True)
class TrainedMember:
    """A member that was trained to its end: its weights, and what a training of it alone would return."""

    adapter: Adapter
    trained: Trained


@dataclass(frozen=True)
class GroupResult:
    """The members that were trained to their ends, and why the others failed; both by folder."""

    trained: dict[str, TrainedMember] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def train_multi_lora(
    tasks: Sequence[CellTask],
    micro_batch_size: int,
    share: float,
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    context: JobContext,
) -> GroupResult:
    """Trains `tasks` together up to a share of their budgets, `micro_batch_size` sequences of each at a time.

    Columns that members have in common are scored together. `base` is afterwards what it was before. Raises
    TrainingError where nothing fits the memory, Interrupted where the user stops.
    """
    from peftodyssey.multi_lora.trainer import train_adapters

    options, callbacks = context.options, context.callbacks
    members = [_member(task, micro_batch_size, share, base, tokenizer, context) for task in tasks]
    longest = max(members, key=lambda member: member.settings.steps)
    for member, task in zip(members, tasks, strict=True):
        member.on_step = on_step_of(task, member.settings, context, report=member is longest)
    with track_peak(options.device) as peak:
        finished = train_adapters(
            base,
            members,
            device=options.device,
            checkpoint_every_s=options.checkpoint_every_s,
            callbacks=TrainCallbacks(should_stop=callbacks.should_stop, on_note=callbacks.note),
        )
    group = json.dumps({"members": [task.short_hash for task in tasks], "peak_memory_bytes": peak.peak_bytes})
    for member in members:
        atomic.write_text(member.state_folder / layout.MULTI_LORA_FILE, group)
    if not finished:
        done = min(len(member.log) for member in members)
        raise Interrupted(f"{len(tasks)} cells that train together stopped after step {done}", START_AGAIN)
    ended = [(task, member) for task, member in zip(tasks, members, strict=True) if not member.failed]
    if share >= 1:
        _score(ended, base, tokenizer, context)
    return GroupResult(
        {t.folder: TrainedMember(m.weights, Trained(m.result(), peak.peak_bytes)) for t, m in ended},
        {t.folder: str(m.failed) for t, m in zip(tasks, members, strict=True) if m.failed},
    )


def finish_member(
    task: CellTask, member: TrainedMember, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext
) -> None:
    """Saves, scores, measures and commits one member; `base` is afterwards what it was before."""
    from peftodyssey.multi_lora.adapters import copy_adapter_into

    with cell_handle(task, base, tokenizer) as handle:
        attached = handle.adapted()
        copy_adapter_into(member.adapter, attached.model)
        require_weights_changed(task, attached)
        finish(task, handle, member.trained, context)


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
        with attach_adapters_for_eval(base, [adapters[n] for n in numbers], device, compute) as order:
            results = score.scored_adapters(columns[numbers[0]], len(numbers), base, tokenizer.prefix_id, context)
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
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    context: JobContext,
) -> Member:
    from peftodyssey.multi_lora.adapters import adapter_of, copy_adapter_into
    from peftodyssey.multi_lora.trainer import Member
    from peftodyssey.training.loop import resume_digest

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

    def on_eval(index: int, step: int, tokens: int, adapter: Adapter) -> None:
        with cell_handle(task, base, tokenizer) as handle:
            model = handle.adapted().model
            copy_adapter_into(adapter, model)
            eval_callback.EvalCallback(task, model, tokenizer.prefix_id, context)(index, step, tokens)

    return Member(settings, sequences, start, folder / layout.CHECKPOINT, digest, on_eval=on_eval)
